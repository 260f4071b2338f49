use ndarray::Array2;
use nix::fcntl::{Flock, FlockArg};
use tempfile::tempdir;

use super::{
    super::{ArrayFile, Provenance},
    *,
};
use crate::array::Layout;

fn numbers() -> Array2<f64> {
    Array2::from_shape_fn((7, 5), |(row, column)| (row * 5 + column) as f64)
}

fn write(path: &str, ranks: usize) -> ArrayFile {
    let to: ArrayFile = path.parse().unwrap();
    let text = |text: &str| text.to_owned();
    let about = Provenance { title: text("a test"), units: text("m"), version: text("tests 1.0") };
    crate::local(ranks, |world| {
        let grid = world.cart([None, None], [false, false])?.expect("all ranks are on the grid");
        let layout = Layout::on_grid([7, 5], grid.dims());
        let [rows, columns] = layout.block(grid.rank()).ranges();
        to.write(&grid, &layout, &numbers().slice(s![rows, columns]), &about)
    })
    .unwrap();
    to
}

#[test]
fn datasets_are_the_same_for_every_number_of_ranks() {
    let directory = tempdir().unwrap();
    for ranks in [1, 2, 3, 8, 16] {
        let path = directory.path().join(format!("{ranks}.h5"));
        let file = write(&format!("{}:/deep/field", path.display()), ranks);
        assert_eq!(file.shape().unwrap(), [7, 5]);
        assert_eq!(file.read(&[0..7, 0..5]).unwrap(), numbers());
        assert_eq!(file.read(&[2..3, 1..5]).unwrap(), numbers().slice(s![2..3, 1..5]));
        assert_eq!(file.read(&[7..7, 0..5]).unwrap().dim(), (0, 5));
    }
    assert_eq!(
        std::fs::read_dir(directory.path()).unwrap().count(),
        5,
        "no temporary file is left"
    );
}

#[test]
fn files_say_where_their_data_come_from() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("told.h5");
    write(&path.display().to_string(), 3);
    let file = hdf5::File::open(&path).unwrap();
    let field = file.dataset(DATASET).unwrap();
    let read = |of: &Location, name: &str| {
        of.attr(name).unwrap().read_scalar::<VarLenUnicode>().unwrap().to_string()
    };
    assert_eq!((read(&field, "title"), read(&field, "units")), ("a test".into(), "m".into()));
    assert_eq!(read(&file, "version"), "tests 1.0");
    assert!(!read(&file, "command_line").is_empty());
    assert_eq!(file.attr("ranks").unwrap().read_scalar::<u64>().unwrap(), 3);
}

#[test]
fn the_only_dataset_needs_no_name() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("some.h5");
    let open = |name: Option<&str>| Reader::open(&path, name);
    let file = hdf5::File::create(&path).unwrap();
    assert!(open(None).is_err_and(|error| error.to_string().contains("none")));
    let array = ndarray::arr2(&[[1_i16, -2], [3, 4]]);
    let group = file.create_group("inner").unwrap();
    group.new_dataset_builder().with_data(&array).create("small").unwrap();
    file.new_dataset_builder().with_data(&[1.0, 2.0]).create("line").unwrap();
    file.flush().unwrap();
    assert_eq!(open(None).unwrap().read(&[0..2, 1..2]).unwrap(), ndarray::arr2(&[[-2.0], [4.0]]));
    let line = open(Some("line")).map(drop).unwrap_err();
    assert!(matches!(&line, FileError::NotTwoDimensional { shape, .. } if *shape == [2]), "{line}");
    let missing = open(Some("/nothing")).map(drop).unwrap_err().to_string();
    assert!(missing.contains("some.h5"), "{missing}");

    file.new_dataset_builder().with_data(&ndarray::arr2(&[[1.5_f32]])).create("other").unwrap();
    file.flush().unwrap();
    let both = open(None).map(drop).unwrap_err().to_string();
    assert!(both.contains("/inner/small") && both.contains("/other"), "{both}");
    let other = open(Some("/other")).unwrap().read(&[0..1, 0..1]).unwrap();
    assert_eq!(other, ndarray::arr2(&[[1.5]]));
}

#[test]
fn whole_numbers_of_every_size_are_read() {
    let directory = tempdir().unwrap();
    macro_rules! check {
        ($($type:ty),*) => {$({
            let path = directory.path().join(concat!(stringify!($type), ".h5"));
            let file = hdf5::File::create(&path).unwrap();
            let array = numbers().mapv(|value| value as $type);
            file.new_dataset_builder().with_data(&array).create("numbers").unwrap();
            file.close().unwrap();
            let read = Reader::open(&path, None).unwrap().read(&[0..7, 0..5]).unwrap();
            assert_eq!(read, numbers(), stringify!($type));
        })*};
    }
    check!(i8, i16, i32, i64, u8, u16, u32, u64, f32, f64);
}

#[test]
fn links_of_every_kind_lead_to_one_dataset_once() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("links.h5");
    let array = ndarray::arr2(&[[1.0, 2.0], [3.0, 4.0]]);
    let file = hdf5::File::create(&path).unwrap();
    let group = file.create_group("group").unwrap();
    group.new_dataset_builder().with_data(&array).create("z").unwrap();
    file.link_hard("/group/z", "hard").unwrap();
    file.link_soft("/group/z", "soft").unwrap();
    file.link_soft("/nowhere", "dangling").unwrap();
    file.link_soft("/b", "a").unwrap();
    file.link_soft("/a", "b").unwrap();
    group.link_soft("/", "up").unwrap();
    file.link_hard("/group", "group/itself").unwrap();
    file.link_external("missing.h5", "/x", "missing").unwrap();
    file.link_external("links.h5", "/group/z", "around").unwrap();
    // A file that has the dataset by a link only, and one that it runs in a circle with.
    let other = hdf5::File::create(directory.path().join("other.h5")).unwrap();
    other.link_external("links.h5", "/soft", "there").unwrap();
    other.link_external("third.h5", "/", "onward").unwrap();
    let third = hdf5::File::create(directory.path().join("third.h5")).unwrap();
    third.link_external("other.h5", "/", "back").unwrap();
    third.link_external("third.h5", "/", "itself").unwrap();
    for file in [file, other, third] {
        file.close().unwrap();
    }
    for name in ["links.h5", "other.h5", "third.h5"] {
        let reader = Reader::open(&directory.path().join(name), None).unwrap();
        assert_eq!(reader.read(&[0..2, 0..2]).unwrap(), array, "{name}");
    }
}

#[test]
fn what_cannot_be_read_is_told_with_what_there_is() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("none.h5");
    let refusal = |name: Option<&str>| Reader::open(&path, name).map(drop).unwrap_err().to_string();
    let file = hdf5::File::create(&path).unwrap();
    file.new_dataset::<f32>().shape([2, 3, 4]).create("cube").unwrap();
    let inner = file.create_group("inner").unwrap();
    inner.new_dataset::<f64>().shape(()).create("scalar").unwrap();
    drop(inner);
    file.flush().unwrap();
    let none = refusal(None);
    for words in ["none.h5", "none;", "/cube: [2, 3, 4] of float32", "/inner/scalar: [] of float64"]
    {
        assert!(none.contains(words), "{none}");
    }
    let misspelt = refusal(Some("cub"));
    assert!(misspelt.contains("no dataset cub") && misspelt.contains("/cube"), "{misspelt}");
    assert!(refusal(Some("inner")).contains("no dataset inner"));
    let cube = refusal(Some("cube"));
    assert!(cube.contains("none.h5:cube") && cube.contains("[2, 3, 4]"), "{cube}");

    // More cells than any memory has; nothing of them is in the file.
    file.new_dataset::<f64>().chunk([16, 16]).shape([1 << 30, 1 << 30]).create("huge").unwrap();
    file.flush().unwrap();
    let huge = Reader::open(&path, Some("huge")).unwrap();
    let whole = huge.read(&[0..1 << 30, 0..1 << 30]).unwrap_err().to_string();
    assert!(whole.contains("memory"), "{whole}");
    assert_eq!(huge.read(&[5..6, 7..9]).unwrap(), ndarray::arr2(&[[0.0, 0.0]]));
    drop(huge);

    file.close().unwrap();

    std::fs::write(&path, "").unwrap();
    assert!(refusal(None).contains("the file is empty"));
    std::fs::write(&path, "1 2 3").unwrap();
    assert!(refusal(None).contains("cannot read as HDF5 file"));
    let missing = Reader::open(&directory.path().join("missing.h5"), None).map(drop).unwrap_err();
    assert!(matches!(missing, FileError::System { .. }), "{missing}");
}

#[test]
fn an_unknown_filter_and_a_lock_are_named_with_the_remedy() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("packed.h5");
    let file = hdf5::File::create(&path).unwrap();
    let data = numbers();
    file.new_dataset_builder().with_data(&data).chunk((4, 4)).deflate(4).create("z").unwrap();
    file.close().unwrap();
    // The number of the filter stands before its name: that of zstd, which is none of the library's
    // own.
    let mut bytes = std::fs::read(&path).unwrap();
    let name = bytes.windows(8).position(|bytes| bytes == b"deflate\0").unwrap();
    assert_eq!(bytes[name - 8..name - 6], [1, 0], "deflate is filter 1");
    bytes[name - 8..name - 6].copy_from_slice(&32_015_u16.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    let reader = Reader::open(&path, None).unwrap();
    let error = reader.read(&[0..7, 0..5]).unwrap_err().to_string();
    for words in ["packed.h5:/z", "zstd (filter 32015)", "HDF5_PLUGIN_PATH", "h5repack"] {
        assert!(error.contains(words), "{error}");
    }
    drop(reader);

    if std::env::var_os("HDF5_USE_FILE_LOCKING").is_some() {
        return; // whoever runs the tests decides about locks
    }
    let held = std::fs::File::open(&path).unwrap();
    let lock = Flock::lock(held, FlockArg::LockExclusiveNonblock).unwrap();
    let error = Reader::open(&path, None).map(drop).unwrap_err().to_string();
    assert!(error.contains("locked") && error.contains("HDF5_USE_FILE_LOCKING"), "{error}");
    drop(lock);
    assert!(Reader::open(&path, None).is_ok());
}

#[test]
fn a_file_with_other_datasets_is_refused_and_kept() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("kept.h5");
    let to = |dataset: &str| format!("{}{dataset}", path.display()).parse::<ArrayFile>().unwrap();
    // What is no HDF5 file, and what has only the dataset that is written anew, is replaced.
    std::fs::write(&path, "").unwrap();
    write(to("").path().to_str().unwrap(), 2);
    assert!(to(":/field").check_writable().is_ok());
    assert!(to(":field").check_writable().is_ok());
    write(to("").path().to_str().unwrap(), 2);

    let refused = |dataset: &str| {
        let error = to(dataset).check_writable().unwrap_err();
        assert!(matches!(error, FileError::OtherDatasets { .. }), "{error}");
        error.to_string()
    };
    assert!(refused(":/other").contains("/field: [7, 5] of float64"));
    let file = hdf5::File::open_rw(&path).unwrap();
    file.new_dataset_builder().with_data(&[1, 2, 3]).create("precious").unwrap();
    file.close().unwrap();
    assert!(refused("").contains("/precious: [3] of int32"));
    let about = Provenance { title: String::new(), units: String::new(), version: String::new() };
    let failed = crate::local(2, |world| {
        let layout = Layout::on_grid([2, 2], [2, 1]);
        Ok(to("").write(world, &layout, &Array2::zeros((1, 2)), &about).is_err())
    });
    assert_eq!(failed.unwrap(), [true; 2]);
    let file = hdf5::File::open(&path).unwrap();
    assert_eq!(file.dataset("precious").unwrap().read_raw::<i32>().unwrap(), [1, 2, 3]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
