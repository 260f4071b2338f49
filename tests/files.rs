//! Files as their users see them: `NumPy`, `h5py` and VTK, where `target/python` has them.
//!
//! A binary of its own: what other tests start would hold the locks of the files that are open here.

#![cfg(feature = "hdf5")]

use std::{ops::Range, path::Path};

use ndarray::Array2;
use spmd::{
    array::Layout,
    io::{ArrayFile, Provenance, Stored},
};
use tempfile::tempdir;

fn about() -> Provenance {
    let text = |text: &str| text.to_owned();
    Provenance { title: text("a test"), units: text("m"), version: text("tests 1.0") }
}

/// Appends the steps to a series, each of the array plus its number.
fn append(to: &ArrayFile, ranks: usize, steps: Range<usize>, array: &Array2<f32>) {
    let layout = Layout::new([array.nrows(), array.ncols()], ranks);
    spmd::local(ranks, |world| {
        for step in steps.clone() {
            let now = array + step as f32;
            let block = layout.block(world.rank());
            to.append(world, step as f64 + 0.5, &layout, &block.of(&now), &about())?;
        }
        Ok(())
    })
    .unwrap();
}

/// Writes an array of cells that are counted, on three ranks.
fn put<T: Stored>(to: &ArrayFile, shape: [usize; 3], value: fn(usize) -> T) {
    let values = (0..shape.iter().product()).map(|number| value(number % 100));
    let array = ndarray::Array3::from_shape_vec(shape, values.collect()).unwrap();
    spmd::local(3, |world| {
        let layout = Layout::new(shape, 3);
        to.write(world, &layout, &layout.block(world.rank()).of(&array), &about())
    })
    .unwrap();
}

#[test]
fn python_reads_what_is_written() {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    let has = std::process::Command::new(&python).args(["-c", "import h5py, vtk"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        let required = std::env::var("SPMD_REQUIRE").unwrap_or_default();
        let why = "needs `python3 -m venv target/python && target/python/bin/pip install h5py vtk`";
        assert!(
            !required.split(',').any(|it| it == "python"),
            "SPMD_REQUIRE asks for python: {why}"
        );
        println!("skipped: {why}");
        return;
    }
    let directory = tempdir().unwrap();
    let to = |name: &str| -> ArrayFile {
        directory.path().join(name).to_str().unwrap().parse().unwrap()
    };
    macro_rules! every {
        ($($name:literal: $value:expr;)*) => {$(
            for (suffix, packed) in [(".npy", false), (".h5", false), ("-packed.h5", true)] {
                let file = to(&format!("{}{suffix}", $name));
                put(&if packed { file.deflate(4) } else { file }, [3, 4, 5], $value);
            }
        )*};
    }
    every! {
        "bool": |number| number != 0;
        "int8": |number| number as i8;
        "int16": |number| number as i16;
        "int32": |number| number as i32;
        "int64": |number| number as i64;
        "uint8": |number| number as u8;
        "uint16": |number| number as u16;
        "uint32": |number| number as u32;
        "uint64": |number| number as u64;
        "float32": |number| number as f32;
        "float64": |number| number as f64;
    }
    put(&to("three.vtkhdf"), [3, 4, 5], |number| number as i32);
    let field = Array2::from_shape_fn((3, 4), |(row, column)| (row * 4 + column) as f32);
    spmd::local(2, |world| {
        let (layout, field) = (Layout::new([3, 4], 2), field.mapv(f64::from));
        let block = layout.block(world.rank());
        to("two.vtkhdf").write(world, &layout, &block.of(&field), &about())
    })
    .unwrap();
    append(&to("series.h5:/run/heat"), 2, 0..3, &field);
    append(&to("series.vtkhdf"), 2, 0..3, &field);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/files.py");
    let output =
        std::process::Command::new(python).arg(script).arg(directory.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok\n", "{output:?}");
}
