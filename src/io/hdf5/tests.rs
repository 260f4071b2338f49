use std::ops::Range;

use ndarray::Array2;
use nix::fcntl::{Flock, FlockArg};
use tempfile::tempdir;

use super::{
    super::{ArrayFile, Provenance},
    *,
};
use crate::array::{Block, Layout};

/// Opens a dataset, or the only one with two axes.
fn open(path: &Path, name: Option<&str>) -> Result<Reader, FileError> {
    Reader::open(path, name, Some(2))
}

fn block(ranges: [Range<usize>; 2]) -> Block<2> {
    Block::new(ranges.clone().map(|range| range.start), ranges.map(|range| range.len()))
}

fn read(reader: &Reader, ranges: [Range<usize>; 2]) -> Result<Array2<f64>, FileError> {
    let block = block(ranges);
    let cells = reader.read(&Part::from(&block))?;
    Ok(Array2::from_shape_vec(block.shape(), cells.values).unwrap())
}

/// A block of the only dataset with two axes.
pub(super) fn read_block(path: &Path, ranges: [Range<usize>; 2]) -> Array2<f64> {
    read(&open(path, None).unwrap(), ranges).unwrap()
}

fn numbers() -> Array2<f64> {
    Array2::from_shape_fn((7, 5), |(row, column)| (row * 5 + column) as f64)
}

fn about() -> Provenance {
    let text = |text: &str| text.to_owned();
    Provenance { title: text("a test"), units: text("m"), version: text("tests 1.0") }
}

fn write(path: &str, ranks: usize) -> ArrayFile {
    let to: ArrayFile = path.parse().unwrap();
    crate::local(ranks, |world| {
        let layout = Layout::new([7, 5], ranks);
        to.write(world, &layout, &layout.block(world.rank()).of(&numbers()), &about())
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
        let read = |ranges| file.read::<f64, 2>(&block(ranges)).unwrap();
        assert_eq!(read([0..7, 0..5]), numbers());
        assert_eq!(read([2..3, 1..5]), numbers().slice(ndarray::s![2..3, 1..5]));
        assert_eq!(read([7..7, 0..5]).dim(), (0, 5));
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
    let open = |name: Option<&str>| open(&path, name);
    let file = hdf5::File::create(&path).unwrap();
    assert!(open(None).is_err_and(|error| error.to_string().contains("none")));
    let array = ndarray::arr2(&[[1_i16, -2], [3, 4]]);
    let group = file.create_group("inner").unwrap();
    group.new_dataset_builder().with_data(&array).create("small").unwrap();
    file.new_dataset_builder().with_data(&[1.0, 2.0]).create("line").unwrap();
    file.flush().unwrap();
    assert_eq!(read(&open(None).unwrap(), [0..2, 1..2]).unwrap(), ndarray::arr2(&[[-2.0], [4.0]]));
    let line: ArrayFile = format!("{}:line", path.display()).parse().unwrap();
    assert_eq!((line.shape_of().unwrap(), line.shape().unwrap()), (vec![2], [2]));
    let line = line.shape::<2>().unwrap_err();
    assert!(matches!(&line, FileError::WrongAxes { shape, .. } if *shape == [2]), "{line}");
    assert!(line.to_string().contains("some.h5:line") && line.to_string().contains("two axes"));
    let missing = open(Some("/nothing")).map(drop).unwrap_err().to_string();
    assert!(missing.contains("some.h5"), "{missing}");

    file.new_dataset_builder().with_data(&ndarray::arr2(&[[1.5_f32]])).create("other").unwrap();
    file.flush().unwrap();
    let both = open(None).map(drop).unwrap_err().to_string();
    assert!(both.contains("/inner/small") && both.contains("/other"), "{both}");
    let other = open(Some("/other")).unwrap();
    assert_eq!(read(&other, [0..1, 0..1]).unwrap(), ndarray::arr2(&[[1.5]]));
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
            assert_eq!(read_block(&path, [0..7, 0..5]), numbers(), stringify!($type));
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
        assert_eq!(read_block(&directory.path().join(name), [0..2, 0..2]), array, "{name}");
    }
}

#[test]
fn what_cannot_be_read_is_told_with_what_there_is() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("none.h5");
    let refusal = |name: Option<&str>| open(&path, name).map(drop).unwrap_err().to_string();
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
    let cube: ArrayFile = format!("{}:cube", path.display()).parse().unwrap();
    let cube = cube.shape::<2>().unwrap_err().to_string();
    assert!(cube.contains("none.h5:cube") && cube.contains("[2, 3, 4]"), "{cube}");

    // More cells than any memory has; nothing of them is in the file.
    file.new_dataset::<f64>().chunk([16, 16]).shape([1 << 30, 1 << 30]).create("huge").unwrap();
    file.flush().unwrap();
    let huge = open(&path, Some("huge")).unwrap();
    let whole = read(&huge, [0..1 << 30, 0..1 << 30]).unwrap_err().to_string();
    assert!(whole.contains("memory"), "{whole}");
    assert_eq!(read(&huge, [5..6, 7..9]).unwrap(), ndarray::arr2(&[[0.0, 0.0]]));
    drop(huge);

    file.close().unwrap();

    std::fs::write(&path, "").unwrap();
    assert!(refusal(None).contains("the file is empty"));
    std::fs::write(&path, "1 2 3").unwrap();
    assert!(refusal(None).contains("cannot read as HDF5 file"));
    let missing = open(&directory.path().join("missing.h5"), None).map(drop).unwrap_err();
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
    let reader = open(&path, None).unwrap();
    let error = read(&reader, [0..7, 0..5]).unwrap_err().to_string();
    for words in ["packed.h5:/z", "zstd (filter 32015)", "HDF5_PLUGIN_PATH", "h5repack"] {
        assert!(error.contains(words), "{error}");
    }
    drop(reader);

    if std::env::var_os("HDF5_USE_FILE_LOCKING").is_some() {
        return; // whoever runs the tests decides about locks
    }
    let held = std::fs::File::open(&path).unwrap();
    let lock = Flock::lock(held, FlockArg::LockExclusiveNonblock).unwrap();
    let error = open(&path, None).map(drop).unwrap_err().to_string();
    assert!(error.contains("locked") && error.contains("HDF5_USE_FILE_LOCKING"), "{error}");
    drop(lock);
    assert!(open(&path, None).is_ok());
}

#[test]
fn what_is_started_meanwhile_does_not_hold_a_file() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("kept.h5");
    let file = raw::keep(hdf5::File::create(&path).unwrap());
    let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    drop(file);
    let opened = super::open(&path).map(drop);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(opened.is_ok(), "{opened:?}");
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
        Ok(to("").write(world, &layout, &Array2::<f64>::zeros((1, 2)), &about).is_err())
    });
    assert_eq!(failed.unwrap(), [true; 2]);
    let file = hdf5::File::open(&path).unwrap();
    assert_eq!(file.dataset("precious").unwrap().read_raw::<i32>().unwrap(), [1, 2, 3]);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn chunks_and_compression_are_as_asked_for_and_change_no_value() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("packed.h5");
    let plain: ArrayFile = path.to_str().unwrap().parse().unwrap();
    let array = ndarray::Array3::from_shape_fn((40, 50, 60), |(i, j, k)| (i + j * k) as i32);
    for (to, chunk, packed) in [
        (plain.clone(), None, false),
        (plain.clone().chunked(&[7, 100, 9]), Some(vec![7, 50, 9]), false),
        (plain.clone().deflate(4), Some(vec![40, 50, 60]), true),
        (plain.clone().chunked(&[10, 10, 10]).deflate(9), Some(vec![10, 10, 10]), true),
    ] {
        for ranks in [1, 3, 8] {
            crate::local(ranks, |world| {
                let layout = Layout::new([40, 50, 60], ranks);
                to.write(world, &layout, &layout.block(world.rank()).of(&array), &about())
            })
            .unwrap();
            let file = hdf5::File::open(&path).unwrap();
            let dataset = file.dataset(DATASET).unwrap();
            assert_eq!((dataset.chunk(), dataset.filters().len()), (chunk.clone(), packed.into()));
            assert!(!packed || dataset.storage_size() < 4 * array.len() as u64 / 2);
            assert_eq!(plain.read::<i32, 3>(&Block::whole([40, 50, 60])).unwrap(), array);
        }
    }
    for (to, told) in [
        (plain.clone().chunked(&[7, 9]), "a length of 1 or more for each axis"),
        (plain.clone().chunked(&[7, 0, 9]), "a length of 1 or more for each axis"),
        (plain.clone().deflate(10), "level 10"),
        ("packed.npy".parse::<ArrayFile>().unwrap().deflate(1), "ends in .h5"),
    ] {
        let error = to.check_room::<i32>(&[40, 50, 60]).unwrap_err().to_string();
        assert!(error.contains("packed.") && error.contains(told), "{error}");
    }
}

#[test]
fn what_rust_writes_has_the_types_that_others_expect() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("types.h5");
    let to: ArrayFile = path.to_str().unwrap().parse().unwrap();
    let write = |block: &ndarray::Array1<bool>| {
        crate::local(1, |world| to.write(world, &Layout::new([2], 1), block, &about())).unwrap();
    };
    write(&ndarray::array![true, false]);
    let stored = || {
        let file = hdf5::File::open(&path).unwrap();
        file.dataset(DATASET).unwrap().dtype().unwrap()
    };
    assert_eq!(stored().to_descriptor().unwrap(), hdf5::types::TypeDescriptor::Boolean);
    assert_eq!(to.element().unwrap(), Element::Bool);
    assert_eq!(to.read::<bool, 1>(&Block::whole([2])).unwrap(), ndarray::array![true, false]);
    assert_eq!(to.read::<i16, 1>(&Block::whole([2])).unwrap(), ndarray::array![1, 0]);
    // A value without axes, and a dataset that has none at all.
    let file = hdf5::File::create(&path).unwrap();
    file.new_dataset::<f32>().create("scalar").unwrap().write_scalar(&2.5_f32).unwrap();
    file.close().unwrap();
    assert_eq!(to.shape_of().unwrap(), [0; 0]);
    assert!((to.read_value::<f64>().unwrap() - 2.5).abs() < 1e-12);
    let error = to.read_value::<i64>().unwrap_err().to_string();
    assert!(
        error.contains("types.h5:/scalar: holds float32") && error.contains("int64"),
        "{error}"
    );
    let error = to.shape::<1>().unwrap_err().to_string();
    assert!(error.contains("1-D datasets") && error.contains("/scalar"), "{error}");
}

#[cfg(feature = "num-complex")]
#[test]
fn numbers_become_complex_but_not_the_other_way() {
    use num_complex::Complex;
    let directory = tempdir().unwrap();
    let path = directory.path().join("pairs.h5");
    let to: ArrayFile = path.to_str().unwrap().parse().unwrap();
    let pairs = ndarray::array![Complex::new(1.5_f32, -2.0), Complex::new(0.0, f32::INFINITY)];
    let layout = Layout::new([2], 1);
    crate::local(1, |world| to.write(world, &layout, &pairs, &about())).unwrap();
    let whole = Block::whole([2]);
    assert_eq!(to.read::<Complex<f32>, 1>(&whole).unwrap(), pairs);
    let wide = pairs.mapv(|pair| Complex::new(f64::from(pair.re), f64::from(pair.im)));
    assert_eq!(to.read::<Complex<f64>, 1>(&whole).unwrap(), wide);
    let error = to.read::<f64, 1>(&whole).unwrap_err().to_string();
    assert!(error.contains("complex64") && error.contains("array.real"), "{error}");
    let numbers = ndarray::array![3_i16, -4];
    crate::local(1, |world| to.write(world, &layout, &numbers, &about())).unwrap();
    let wide = numbers.mapv(|number| Complex::new(f64::from(number), 0.0));
    assert_eq!(to.read::<Complex<f64>, 1>(&whole).unwrap(), wide);
}

/// Appends the steps to a series, each of the array plus its number.
fn append(to: &ArrayFile, ranks: usize, steps: Range<usize>, array: &Array2<f32>) {
    let layout = Layout::new([array.nrows(), array.ncols()], ranks);
    crate::local(ranks, |world| {
        for step in steps.clone() {
            let now = array + step as f32;
            let block = layout.block(world.rank());
            to.append(world, step as f64 + 0.5, &layout, &block.of(&now), &about())?;
        }
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_series_grows_by_steps_of_several_runs() {
    let directory = tempdir().unwrap();
    let array = numbers().mapv(|value| value as f32);
    for name in ["a.h5", "b.h5:/run/heat", "c.vtkhdf", "d.hdf5"] {
        let to: ArrayFile = directory.path().join(name).to_str().unwrap().parse().unwrap();
        let to = if name == "d.hdf5" { to.chunked(&[2, 3]).deflate(2) } else { to };
        append(&to, 3, 0..2, &array);
        append(&to, 8, 2..3, &array);
        append(&to, 1, 3..5, &array);
        assert_eq!(to.times().unwrap(), [0.5, 1.5, 2.5, 3.5, 4.5]);
        assert_eq!(to.shape().unwrap(), [5, 7, 5]);
        for step in 0..5 {
            let read = to.read::<f32, 3>(&Block::new([step, 0, 0], [1, 7, 5])).unwrap();
            assert_eq!(read.index_axis(ndarray::Axis(0), 0), &array + step as f32, "{name} {step}");
        }
    }
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 4);
}

#[test]
fn a_step_that_does_not_fit_is_refused_and_the_series_kept() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("kept.h5");
    let to: ArrayFile = path.to_str().unwrap().parse().unwrap();
    let array = numbers().mapv(|value| value as f32);
    append(&to, 2, 0..2, &array);
    let refused = |to: &ArrayFile, time: f64, layout: &Layout<2>, told: &str| {
        let failed = crate::local(2, |world| {
            let block = Array2::<f32>::zeros(layout.block(world.rank()).shape());
            Ok(to.append(world, time, layout, &block, &about()).unwrap_err().to_string())
        });
        for words in failed.unwrap() {
            assert!(words.contains("kept.") && words.contains(told), "{words}");
        }
    };
    let layout = Layout::new([7, 5], 2);
    refused(&to, 1.5, &layout, "has a step of time 1.5, which 1.5 does not follow");
    refused(&to, f64::NAN, &layout, "no number");
    refused(&to, 2.5, &Layout::new([7, 6], 2), "is a series of float32 of shape [7, 5]");
    let name = |name: &str| path.with_file_name(name).to_str().unwrap().parse().unwrap();
    refused(&name("kept.h5:/time"), 2.5, &layout, "choose another");
    refused(&name("kept.h5:/other"), 2.5, &layout, "has other datasets");
    refused(&name("kept.npy"), 2.5, &layout, ".h5");
    let double = crate::local(1, |world| {
        to.append(world, 2.5, &Layout::new([7, 5], 1), &numbers(), &about())
    });
    assert!(double.unwrap_err().to_string().contains("not of float64"));
    // What a program that was killed while it appended leaves: room for a step, and no time.
    let file = hdf5::File::open_rw(&path).unwrap();
    file.dataset(DATASET).unwrap().resize((3, 7, 5)).unwrap();
    file.close().unwrap();
    assert_eq!(to.times().unwrap(), [0.5, 1.5]);
    append(&to, 2, 2..3, &array);
    assert_eq!((to.times().unwrap().len(), to.shape().unwrap()), (3, [3, 7, 5]));
    // What was never a series.
    let single = write(path.with_file_name("kept.hdf5").to_str().unwrap(), 1);
    refused(&single, 0.0, &layout, "is no series");
    // A file that is damaged is not written over.
    std::fs::write(&path, "no HDF5 any more").unwrap();
    refused(&to, 9.0, &layout, "cannot read as HDF5 file");
}

#[test]
fn images_are_of_two_or_three_axes_of_numbers() {
    let directory = tempdir().unwrap();
    let refusal = |name: &str, refused: Result<(), FileError>| {
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("image.vtkhdf") && told.contains(name), "{told}");
    };
    let to = |name: &str| -> ArrayFile {
        directory.path().join(name).to_str().unwrap().parse().unwrap()
    };
    let image = to("image.vtkhdf");
    assert!(image.check_room::<u8>(&[3, 4]).is_ok() && image.check_room::<f32>(&[3, 4, 5]).is_ok());
    refusal("two or three axes", image.check_room::<f64>(&[3]));
    refusal("two or three axes", image.check_room::<f64>(&[3, 4, 5, 6]));
    refusal("not bool", image.check_room::<bool>(&[3, 4]));
    refusal("without a slash", to("image.vtkhdf:/a").check_room::<f64>(&[3, 4]));
    refusal("without a slash", to("image.vtkhdf:a/b").check_room::<f64>(&[3, 4]));
    let heat = to("image.vtkhdf:heat");
    write(heat.to_string().as_str(), 3);
    assert_eq!(heat.read::<f64, 2>(&Block::whole([7, 5])).unwrap(), numbers());
    assert_eq!(image.read::<f64, 2>(&Block::whole([7, 5])).unwrap(), numbers());
    let file = hdf5::File::open(image.path()).unwrap();
    assert!(file.dataset("/VTKHDF/CellData/heat").is_ok());
    let root = file.group("VTKHDF").unwrap();
    assert_eq!(root.attr("Version").unwrap().read_raw::<i64>().unwrap(), [2, 1]);
    let extent = root.attr("WholeExtent").unwrap().read_raw::<i64>().unwrap();
    assert_eq!(extent, [0, 5, 0, 7, 0, 0]);
}
