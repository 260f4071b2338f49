use std::fs;

use ndarray::{Array2, ShapeBuilder, s};
use ndarray_npy::{read_npy, write_npy};
use tempfile::{TempDir, tempdir};

use super::*;

fn about() -> Provenance {
    let text = |text: &str| text.to_owned();
    Provenance { title: text("a test"), units: text("K"), version: text("tests 1.0") }
}

fn file(directory: &TempDir, name: &str) -> ArrayFile {
    directory.path().join(name).to_str().unwrap().parse().unwrap()
}

fn numbers(shape: [usize; 2]) -> Array2<f64> {
    Array2::from_shape_fn(shape, |(row, column)| (row * 1000 + column) as f64 / 8.0)
}

/// Writes an array on so many ranks, each of which holds its block only.
fn write(to: &ArrayFile, array: &Array2<f64>, ranks: usize) {
    let [rows, columns] = [array.nrows(), array.ncols()];
    crate::local(ranks, |world| {
        let grid = world.cart([None, None], [false, false])?.expect("all ranks are on the grid");
        let layout = Layout::new([rows, columns], grid.dims());
        let [rows, columns] = layout.block(grid.rank());
        to.write(&grid, &layout, &array.slice(s![rows, columns]), &about())
    })
    .unwrap();
}

/// Reads an array block by block on so many ranks.
fn read(from: &ArrayFile, ranks: usize) -> Array2<f64> {
    let blocks = crate::local(ranks, |world| {
        let grid = world.cart([None, None], [false, false])?.expect("all ranks are on the grid");
        let layout = Layout::new(from.shape()?, grid.dims());
        let block = layout.block(grid.rank());
        Ok((block.clone(), from.read(&block)?))
    });
    let mut whole = Array2::from_elem(from.shape().unwrap(), f64::NAN);
    for ([rows, columns], values) in blocks.unwrap() {
        whole.slice_mut(s![rows, columns]).assign(&values);
    }
    whole
}

const SHAPES: [[usize; 2]; 6] = [[7, 5], [3, 3], [1, 9], [9, 1], [1, 1], [64, 33]];

#[test]
fn npy_files_are_the_same_for_every_number_of_ranks() {
    let directory = tempdir().unwrap();
    for shape in SHAPES {
        let array = numbers(shape);
        let plain = directory.path().join("plain.npy");
        write_npy(&plain, &array).unwrap();
        for ranks in [1, 2, 3, 5, 8] {
            let to = file(&directory, "ours.npy");
            write(&to, &array, ranks);
            assert_eq!(
                fs::read(to.path()).unwrap(),
                fs::read(&plain).unwrap(),
                "{shape:?} {ranks}"
            );
            assert_eq!(read(&to, ranks), array);
        }
    }
    let names = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 2, "no temporary file is left");
}

#[test]
fn numbers_of_every_type_are_read_in_both_orders() {
    let directory = tempdir().unwrap();
    let wanted = Array2::from_shape_fn((5, 4), |(row, column)| (row * 4 + column) as f64);
    macro_rules! check {
        ($($type:ty),*) => {$({
            let from = file(&directory, concat!(stringify!($type), ".npy"));
            let array = wanted.mapv(|value| value as $type);
            write_npy(from.path(), &array).unwrap();
            assert_eq!(read(&from, 3), wanted, "{from}");
            let mut fortran = Array2::<$type>::zeros((5, 4).f());
            fortran.assign(&array);
            write_npy(from.path(), &fortran).unwrap();
            assert_eq!(read(&from, 3), wanted, "{from} in Fortran order");
        })*};
    }
    check!(f64, f32, i64, i32, i16, i8, u64, u32, u16, u8);
}

#[test]
fn big_endian_numbers_are_read() {
    let directory = tempdir().unwrap();
    let from = file(&directory, "big.npy");
    let header = "{'descr': '>i2', 'fortran_order': False, 'shape': (1, 2), }";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&118_u16.to_le_bytes());
    bytes.extend_from_slice(format!("{header:117}\n").as_bytes());
    bytes.extend_from_slice(&[1, 2, 0xff, 0xfe]);
    fs::write(from.path(), bytes).unwrap();
    assert_eq!(read(&from, 2), ndarray::array![[258.0, -2.0]]);
}

#[test]
fn unusable_files_are_refused_by_name() {
    let directory = tempdir().unwrap();
    let refusal = |name: &str| {
        let from = file(&directory, name);
        let error = from.shape().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        error
    };
    write_npy(directory.path().join("line.npy"), &ndarray::array![1.0, 2.0]).unwrap();
    assert!(refusal("line.npy").contains("two axes"));
    write_npy(directory.path().join("none.npy"), &Array2::<f64>::zeros((0, 4))).unwrap();
    assert!(refusal("none.npy").contains("empty"));
    fs::write(directory.path().join("text.npy"), "no array at all").unwrap();
    assert!(refusal("text.npy").contains("cannot read"));
    assert!(refusal("missing.npy").contains("cannot open"));

    let from = file(&directory, "short.npy");
    write_npy(from.path(), &numbers([4, 4])).unwrap();
    let whole = fs::read(from.path()).unwrap();
    fs::write(from.path(), &whole[..whole.len() - 1]).unwrap();
    assert!(from.read(&[0..4, 0..3]).is_ok(), "what is needed is there");
    assert!(from.read(&[0..4, 0..4]).unwrap_err().to_string().contains("short.npy"));
}

#[test]
fn names_tell_the_format() {
    let parse = |text: &str| text.parse::<ArrayFile>().map(|file| file.to_string());
    assert_eq!(parse("a:b/c.NPY").unwrap(), "a:b/c.NPY");
    assert!(matches!(parse("a.npy:/x"), Err(FileError::NoDatasets { .. })));
    assert!(matches!(parse("a.csv:/x"), Err(FileError::UnknownSuffix { .. })));
    assert!(matches!(parse("npy"), Err(FileError::UnknownSuffix { .. })));
}

#[cfg(not(feature = "hdf5"))]
#[test]
fn a_missing_feature_is_named() {
    let error = "a.h5:/x".parse::<ArrayFile>().unwrap_err().to_string();
    assert!(error.contains("a.h5") && error.contains("--features hdf5"), "{error}");
}

#[test]
fn a_directory_that_cannot_be_written_is_found_beforehand() {
    let directory = tempdir().unwrap();
    assert!(file(&directory, "new.npy").check_writable().is_ok());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "looking leaves nothing behind");
    let error = file(&directory, "missing/new.npy").check_writable().unwrap_err().to_string();
    assert!(error.contains("missing/new.npy"), "{error}");
    fs::create_dir(directory.path().join("taken.npy")).unwrap();
    assert!(file(&directory, "taken.npy").check_writable().is_err());
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let directory = tempdir().unwrap();
    let to = file(&directory, "kept.npy");
    write(&to, &numbers([2, 2]), 1);
    let failed = crate::local(2, |world| {
        let layout = Layout::new([4, 4], [2, 1]);
        if world.rank() == 1 {
            return Err(Failure::new("stopped before its block was sent"));
        }
        to.write(world, &layout, &numbers([2, 4]), &about())
    });
    assert!(failed.is_err());
    assert_eq!(read_npy::<_, Array2<f64>>(to.path()).unwrap(), numbers([2, 2]));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
}
