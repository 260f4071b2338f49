use ndarray::Array2;
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
        let layout = Layout::new([7, 5], grid.dims());
        let [rows, columns] = layout.block(grid.rank());
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
