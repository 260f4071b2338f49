use std::fs;

use arbitrary::Unstructured;
use ndarray::{Array, Array2, Dimension, ShapeBuilder};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::array::{DistArray, Halo};

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
    let shape = [array.nrows(), array.ncols()];
    crate::local(ranks, |world| {
        let layout = Layout::new(shape, ranks);
        to.write(world, &layout, &layout.block(world.rank()).of(array), &about())
    })
    .unwrap();
}

/// Writes an array as `NumPy` does, in this machine's order.
fn write_npy<T: bytemuck::NoUninit, D: Dimension>(to: &Path, element: &str, array: &Array<T, D>) {
    let fortran = if array.is_standard_layout() { "False" } else { "True" };
    let shape: String = format!("{:?}", array.shape()).trim_matches(['[', ']']).to_owned();
    // Of one length `NumPy` leaves the comma, of several it does not.
    let shape = if array.ndim() > 1 { shape } else { shape + "," };
    let order = if cfg!(target_endian = "big") { '>' } else { '<' };
    let text =
        format!("{{'descr': '{order}{element}', 'fortran_order': {fortran}, 'shape': ({shape})}}");
    let values = array.as_slice_memory_order().expect("nothing is left out");
    fs::write(
        to,
        [
            b"\x93NUMPY\x01\0\x76\0",
            format!("{text:117}\n").as_bytes(),
            bytemuck::cast_slice(values),
        ]
        .concat(),
    )
    .unwrap();
}

/// Reads an array block by block on so many ranks.
fn read(from: &ArrayFile, ranks: usize) -> Array2<f64> {
    let blocks = crate::local(ranks, |world| {
        let block = Layout::new(from.shape::<2>()?, ranks).block(world.rank());
        Ok((block, from.read(&block)?))
    });
    let mut whole = Array2::from_elem(from.shape::<2>().unwrap(), f64::NAN);
    for (block, values) in blocks.unwrap() {
        block.of_mut(&mut whole).assign(&values);
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
        write_npy(&plain, "f8", &array);
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
        ($($type:ty: $element:literal),*) => {$({
            let from = file(&directory, concat!(stringify!($type), ".npy"));
            let array = wanted.mapv(|value| value as $type);
            write_npy(from.path(), $element, &array);
            assert_eq!(read(&from, 3), wanted, "{from}");
            let mut fortran = Array2::<$type>::zeros((5, 4).f());
            fortran.assign(&array);
            write_npy(from.path(), $element, &fortran);
            assert_eq!(read(&from, 3), wanted, "{from} in Fortran order");
        })*};
    }
    check!(f64: "f8", f32: "f4", i64: "i8", i32: "i4", i16: "i2", i8: "i1");
    check!(u64: "u8", u32: "u4", u16: "u2", u8: "u1");
}

/// A file with this header, padded as `NumPy` does, and these data.
fn npy(directory: &TempDir, name: &str, version: u8, header: &str, data: &[u8]) -> ArrayFile {
    let text = format!("{header:117}\n");
    let mut bytes = [b"\x93NUMPY", &[version, 0][..]].concat();
    match version {
        1 => bytes.extend_from_slice(&(text.len() as u16).to_le_bytes()),
        _ => bytes.extend_from_slice(&(text.len() as u32).to_le_bytes()),
    }
    let from = file(directory, name);
    fs::write(from.path(), [&bytes, text.as_bytes(), data].concat()).unwrap();
    from
}

fn header(element: &str, shape: &str) -> String {
    format!("{{'descr': '{element}', 'fortran_order': False, 'shape': {shape}, }}")
}

/// A random layout of an array on at most so many ranks.
fn any_layout<const D: usize>(
    u: &mut Unstructured,
    shape: [usize; D],
    ranks: usize,
) -> arbitrary::Result<Layout<D>> {
    let ranks = u.int_in_range(1..=ranks)?;
    let layout = if u.arbitrary()? {
        Layout::new(shape, ranks)
    } else {
        Layout::along(shape, ranks, &[u.choose_index(D)?])
    };
    let axis = u.choose_index(D)?;
    let weights = (0..shape[axis]).map(|_| Ok(f64::from(u.arbitrary::<u8>()?)));
    let weights: Vec<_> = weights.collect::<arbitrary::Result<_>>()?;
    Ok(if u.arbitrary()? { layout.weighted(axis, &weights) } else { layout })
}

/// Writes an array by a random layout, reads it by another, and by blocks of no layout.
fn goes_round<T: Stored + PartialEq + fmt::Debug, const D: usize>(
    u: &mut Unstructured,
    to: &ArrayFile,
    value: fn(u64) -> T,
) -> arbitrary::Result<()>
where
    [usize; D]: Axes,
{
    let mut shape = [0; D];
    for len in &mut shape {
        *len = u.int_in_range(0..=if D < 4 { 9 } else { 3 })?;
    }
    let cells: u64 = shape.iter().product::<usize>() as u64;
    let values = (0..cells).map(|number| value(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let array = Array::from_shape_vec(shape.dim(), values.collect()).unwrap();
    let ranks = u.int_in_range(1..=5)?;
    let layout = any_layout(u, shape, ranks)?;
    crate::local(ranks, |world| {
        to.write(world, &layout, &layout.block(world.rank()).of(&array), &about())
    })
    .unwrap();
    assert_eq!((to.shape_of().unwrap(), to.element().unwrap()), (shape.to_vec(), T::ELEMENT));
    let check = |from: &ArrayFile, block: &Block<D>| {
        assert_eq!(from.read::<T, D>(block).unwrap(), block.of(&array), "{from} {block}");
    };
    let other = any_layout(u, shape, 7)?;
    (0..other.ranks()).for_each(|rank| check(to, &other.block(rank)));
    let halo = *u.choose(&[Halo::none(), Halo::star(1), Halo::cube(2)])?;
    let fill = |from: &ArrayFile| {
        let filled = crate::local(other.ranks(), |world| {
            let mut filled = DistArray::from_fn(world, &other, halo, |_| T::default())?;
            from.read_array_into(&mut filled)?;
            assert_eq!(filled.view(), filled.block().of(&array), "{from} {halo:?}");
            filled.view_mut().fill(T::default());
            assert!(filled.view_with_halo().iter().all(|cell| *cell == T::default()), "{from}");
            Ok(())
        });
        filled.unwrap();
    };
    fill(to);
    let mut block = Block::whole(shape);
    for axis in 0..D {
        let (mut start, mut lens) = (block.start(), block.shape());
        start[axis] = u.int_in_range(0..=shape[axis])?;
        lens[axis] = u.int_in_range(0..=shape[axis] - start[axis])?;
        block = Block::new(start, lens);
    }
    check(to, &block);
    if to.format == Format::Npy {
        // The same in Fortran's order, and in that of another machine.
        let header = fs::read(to.path()).unwrap();
        let header = &header[..header.len() - array.len() * size_of::<T>()];
        let mut fortran = Array::from_elem(shape.dim().f(), T::default());
        fortran.assign(&array);
        let values = fortran.as_slice_memory_order().unwrap();
        let mut bytes: Vec<u8> = bytemuck::cast_slice(values).to_vec();
        stored::swap(T::ELEMENT, &mut bytes);
        let header = String::from_utf8_lossy(&header[10..]).replace("False", "True ");
        let (ours, theirs) = if cfg!(target_endian = "big") { ('>', '<') } else { ('<', '>') };
        let header = header.replace(ours, &theirs.to_string());
        let from = to.path().with_file_name("fortran.npy");
        let length = (header.len() as u16).to_le_bytes();
        let parts = [b"\x93NUMPY\x01\0", &length[..], header.as_bytes(), &bytes];
        fs::write(&from, parts.concat()).unwrap();
        let from = from.to_str().unwrap().parse().unwrap();
        check(&from, &block);
        fill(&from);
    }
    Ok(())
}

#[test]
fn every_type_and_number_of_axes_goes_round_through_every_layout() {
    let directory = tempdir().unwrap();
    let plain = file(&directory, "a.npy");
    let formats = [
        plain.clone(),
        #[cfg(feature = "hdf5")]
        file(&directory, "a.h5"),
        #[cfg(feature = "hdf5")]
        file(&directory, "packed.h5").deflate(1),
    ];
    arbtest::arbtest(|u| {
        let to = u.choose(&formats)?;
        macro_rules! axes {
            ($type:ty, $value:expr) => {
                match u.int_in_range(1..=6)? {
                    1 => goes_round::<$type, 1>(u, to, $value),
                    2 => goes_round::<$type, 2>(u, to, $value),
                    3 => goes_round::<$type, 3>(u, to, $value),
                    4 => goes_round::<$type, 4>(u, to, $value),
                    5 => goes_round::<$type, 5>(u, to, $value),
                    _ => goes_round::<$type, 6>(u, to, $value),
                }
            };
        }
        match u.int_in_range(0..=11)? {
            0 => axes!(bool, |bits| bits & 1 == 1),
            1 => axes!(i8, |bits| bits as i8),
            2 => axes!(i16, |bits| bits as i16),
            3 => axes!(i32, |bits| bits as i32),
            4 => axes!(i64, |bits| bits as i64),
            5 => axes!(u8, |bits| bits as u8),
            6 => axes!(u16, |bits| bits as u16),
            7 => axes!(u32, |bits| bits as u32),
            8 => axes!(u64, |bits| bits),
            9 => axes!(f32, |bits| bits as f32),
            #[cfg(feature = "num-complex")]
            10 => axes!(num_complex::Complex<f32>, |bits| (bits as f32).into()),
            #[cfg(feature = "num-complex")]
            11 => axes!(num_complex::Complex<f64>, |bits| (bits as f64).into()),
            _ => axes!(f64, |bits| bits as f64 / 3.0),
        }
    })
    .budget_ms(2000);
}

#[test]
fn an_array_is_filled_from_one_of_its_own_shape() {
    let directory = tempdir().unwrap();
    let from = file(&directory, "numbers.npy");
    write(&from, &numbers([4, 6]), 2);
    let fill = |shape| {
        let filled = crate::local(2, |world| {
            let layout = Layout::new(shape, 2);
            let mut filled = DistArray::from_fn(world, &layout, Halo::star(1), |_| 0.0)?;
            from.read_array_into(&mut filled)?;
            assert_eq!(filled.view(), filled.block().of(&numbers(shape)));
            Ok(())
        });
        filled.map(drop).map_err(|failure| failure.to_string())
    };
    fill([4, 6]).unwrap();
    let told = fill([6, 4]).unwrap_err();
    assert!(told.contains("has shape [4, 6], and the one to be filled [6, 4]"), "{told}");
}

#[test]
fn conversions_are_those_that_lose_nothing() {
    let directory = tempdir().unwrap();
    let from =
        npy(&directory, "short.npy", 1, &header("<i2", "(3,)"), &[1, 0, 0xff, 0xff, 0, 0x80]);
    let whole = Block::whole([3]);
    assert_eq!(from.read::<i16, 1>(&whole).unwrap(), ndarray::array![1, -1, -32768]);
    assert_eq!(from.read::<i64, 1>(&whole).unwrap(), ndarray::array![1, -1, -32768]);
    assert_eq!(from.read::<f32, 1>(&whole).unwrap(), ndarray::array![1.0, -1.0, -32768.0]);
    for error in [
        from.read::<u16, 1>(&whole).unwrap_err(),
        from.read::<u64, 1>(&whole).unwrap_err(),
        from.read::<i8, 1>(&whole).unwrap_err(),
        from.read::<bool, 1>(&whole).unwrap_err(),
    ] {
        let told = error.to_string();
        assert!(matches!(error, FileError::LossyConversion { holds: Element::I16, .. }), "{told}");
        assert!(told.contains("short.npy: holds int16") && told.contains("astype"), "{told}");
    }
    let from = npy(&directory, "truth.npy", 1, &header("|b1", "(2,)"), &[1, 0]);
    assert_eq!(from.read::<bool, 1>(&Block::whole([2])).unwrap(), ndarray::array![true, false]);
    assert_eq!(from.read::<u64, 1>(&Block::whole([2])).unwrap(), ndarray::array![1, 0]);
    let pair = [1.0_f32, 2.0].map(f32::to_ne_bytes).concat();
    let from = npy(&directory, "pair.npy", 1, &header("=c8", "(1,)"), &pair);
    let told = from.read::<f64, 1>(&Block::whole([1])).unwrap_err().to_string();
    assert!(told.contains("complex64") && told.contains("array.real"), "{told}");
}

#[test]
fn a_value_without_axes_is_read() {
    let directory = tempdir().unwrap();
    let from = npy(&directory, "value.npy", 1, &header("<i4", "()"), &[5, 0, 0, 0]);
    assert_eq!(from.shape_of().unwrap(), [0; 0]);
    assert_eq!(from.element().unwrap(), Element::I32);
    assert_eq!(from.read_value::<i64>().unwrap(), 5);
    let told = from.read::<i32, 1>(&Block::whole([1])).unwrap_err().to_string();
    assert!(
        told.contains("value.npy: the array has shape []") && told.contains("one axis"),
        "{told}"
    );
    let from = npy(&directory, "line.npy", 1, &header("|u1", "(1,)"), &[5]);
    assert!(from.read_value::<u8>().unwrap_err().to_string().contains("no axis"));
}

#[test]
fn ranks_that_disagree_write_nothing() {
    let directory = tempdir().unwrap();
    let told = |call: &(dyn Fn(&Comm) -> Result<(), Failure> + Sync)| {
        let failures = crate::local(3, |world| {
            let failure = call(world).unwrap_err();
            world.barrier()?;
            Ok(failure.to_string())
        });
        assert!(names(&directory).is_empty(), "nothing is begun");
        failures
            .unwrap()
            .into_iter()
            .map(|told| {
                assert!(told.contains("write of") && told.contains("this rank calls"), "{told}");
                told
            })
            .collect::<Vec<_>>()
    };
    let layout = Layout::new([3, 4], 3);
    let block = |layout: &Layout<2>, rank: usize| Array2::<f64>::zeros(layout.block(rank).shape());
    let to = |rank: usize| file(&directory, if rank == 1 { "one.npy" } else { "other.npy" });
    let paths = told(&|world| {
        to(world.rank()).write(world, &layout, &block(&layout, world.rank()), &about())
    });
    assert!(paths[1].contains("rank 0 calls") && paths[0].contains("rank 1 calls"), "{paths:?}");
    let to = to(0);
    let shapes = told(&|world| {
        let layout = Layout::new([3, 4 + usize::from(world.rank() == 2)], 3);
        to.write(world, &layout, &block(&layout, world.rank()), &about())
    });
    assert!(shapes[0].contains("3 x 5 cells"), "{shapes:?}");
    let cuts = told(&|world| {
        let weights = if world.rank() == 0 { [1.0, 5.0, 1.0, 1.0] } else { [1.0, 1.0, 5.0, 1.0] };
        let layout = Layout::on_grid([3, 4], [1, 3]).weighted(1, &weights);
        to.write(world, &layout, &block(&layout, world.rank()), &about())
    });
    assert_eq!(cuts.len(), 3);
    let types = told(&|world| {
        if world.rank() > 0 {
            return to.write(world, &layout, &block(&layout, world.rank()), &about());
        }
        let shape = layout.block(0).shape();
        to.write(world, &layout, &Array2::<i32>::zeros(shape), &about())
    });
    assert!(types[0].contains("int32") && types[0].contains("float64"), "{types:?}");
}

#[test]
fn numbers_in_every_order_and_of_16_bits_are_read() {
    let directory = tempdir().unwrap();
    for version in 1..=3 {
        let from =
            npy(&directory, "big.npy", version, &header(">i2", "(1, 2)"), &[1, 2, 0xff, 0xfe]);
        assert_eq!(read(&from, 2), ndarray::array![[258.0, -2.0]]);
    }
    // As a Python 2 wrote it; an L in quotes is none of its numbers'.
    let from = npy(&directory, "py2.npy", 1, &header("|u1", "(2L, 1L)"), &[7, 8]);
    assert_eq!(read(&from, 1), ndarray::array![[7.0], [8.0]]);
    let native = [1.5_f64, -2.0].map(f64::to_ne_bytes).concat();
    for element in ["=f8", "f8"] {
        let from = npy(&directory, "native.npy", 1, &header(element, "(2, 1)"), &native);
        assert_eq!(read(&from, 2), ndarray::array![[1.5], [-2.0]]);
    }
    let halves = [0x3c00_u16, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00, 0xfc00, 0x3555];
    let values = [
        1.0,
        -2.0,
        65504.0,
        2_f64.powi(-24),
        -0.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        0.333_251_953_125,
    ];
    for (element, bytes) in [
        ("<f2", halves.map(u16::to_le_bytes).concat()),
        (">f2", halves.map(u16::to_be_bytes).concat()),
    ] {
        let from = npy(&directory, "half.npy", 1, &header(element, "(1, 8)"), &bytes);
        let read: Vec<_> = read(&from, 3).iter().map(|value| value.to_bits()).collect();
        assert_eq!(read, values.map(f64::to_bits), "{element}");
    }
    let from = npy(&directory, "nan.npy", 1, &header("<f2", "(1, 1)"), &[0x01, 0x7c]);
    assert!(read(&from, 1)[[0, 0]].is_nan());
}

#[test]
fn a_header_is_not_believed_beyond_the_file() {
    let directory = tempdir().unwrap();
    for shape in [
        "(1099511627776, 1099511627776)",
        "(2, 4611686018427387904)",
        "(1, 9223372036854775807)",
        "(9223372036854775807, 9223372036854775807)",
        "(3, 4)",
    ] {
        let from = npy(&directory, "huge.npy", 1, &header("<f8", shape), &[0; 95]);
        for error in [
            from.shape::<2>().unwrap_err(),
            from.read::<f64, 2>(&Block::whole([1, 1])).unwrap_err(),
        ] {
            assert!(matches!(error, FileError::TooShort { there: 95, .. }), "{shape}: {error}");
            assert!(error.to_string().contains("huge.npy"), "{error}");
        }
    }
    // Headers that are no headers.
    let one_line = |bytes: &[u8]| {
        let from = file(&directory, "odd.npy");
        fs::write(from.path(), bytes).unwrap();
        let words = from.shape::<2>().unwrap_err().to_string();
        assert!(words.contains("odd.npy") && !words.contains('\n') && words.len() < 500, "{words}");
        words
    };
    let magic = b"\x93NUMPY";
    assert!(one_line(b"").contains("empty"));
    assert!(one_line(b"1 2 3\n").contains("text"));
    assert!(one_line(b"PK\x03\x04").contains("npz"));
    assert!(one_line(b"\x00\x01").contains("does not begin"));
    assert!(one_line(magic).contains("ends within"));
    assert!(one_line(&[magic, &[1, 0, 100][..]].concat()).contains("ends within"));
    assert!(one_line(&[magic, &[1, 0, 100, 0, b'{'][..]].concat()).contains("ends within"));
    assert!(
        one_line(&[magic, &[2, 0, 0xff, 0xff, 0xff, 0xff][..]].concat()).contains("4294967295")
    );
    for (version, header) in [
        (9, header("<f8", "(3, 4)")),
        (1, header("<f8", "(-3, 4)")),
        (1, header("<f8", &format!("({}, 4)", "9".repeat(4000)))),
        (1, "{'descr': '<f8', 'fortran_order': False".to_owned()),
        (1, "(".repeat(60_000)),
        (
            1,
            format!(
                "{{'descr': [{}], 'shape': (1, 1), 'fortran_order': False}}",
                "('x', '<f8'),".repeat(100)
            ),
        ),
    ] {
        let from = npy(&directory, "header.npy", version, &header, &[0; 96]);
        one_line(&fs::read(from.path()).unwrap());
    }
}

#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_waited_for() {
    let directory = tempdir().unwrap();
    let pipe = file(&directory, "pipe.npy");
    nix::unistd::mkfifo(pipe.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(pipe.shape_of().unwrap_err().to_string().contains("pipe.npy: is a pipe"));
    let taken = file(&directory, "directory.npy");
    fs::create_dir(taken.path()).unwrap();
    assert!(taken.shape_of().unwrap_err().to_string().contains("is a directory"));
}

#[test]
fn unusable_files_are_refused_by_name() {
    let directory = tempdir().unwrap();
    let refusal = |name: &str| {
        let from = file(&directory, name);
        let error = from.shape::<2>().unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        error
    };
    write_npy(&directory.path().join("line.npy"), "f8", &ndarray::array![1.0, 2.0]);
    assert!(refusal("line.npy").contains("two axes"));
    write_npy(&directory.path().join("none.npy"), "f8", &Array2::<f64>::zeros((0, 4)));
    assert!(refusal("none.npy").contains("empty"));
    fs::write(directory.path().join("text.npy"), "no array at all").unwrap();
    assert!(refusal("text.npy").contains("cannot read"));
    assert!(refusal("missing.npy").contains("cannot open"));

    let from = file(&directory, "short.npy");
    write_npy(from.path(), "f8", &numbers([4, 4]));
    let whole = fs::read(from.path()).unwrap();
    fs::write(from.path(), &whole[..whole.len() - 1]).unwrap();
    for error in
        [from.shape::<2>().unwrap_err(), from.read::<f64, 2>(&Block::whole([1, 1])).unwrap_err()]
    {
        assert!(
            matches!(error, FileError::TooShort { needed: Some(128), there: 127, .. }),
            "{error}"
        );
    }
    assert!(refusal("short.npy").contains("not complete"));
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

/// The names in a directory.
fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn all_ranks_learn_that_a_file_cannot_be_written_and_go_on() {
    let directory = tempdir().unwrap();
    let to = file(&directory, "missing/new.npy");
    let picture: PictureFile =
        directory.path().join("missing/new.png").to_str().unwrap().parse().unwrap();
    let words = crate::local(3, |world| {
        let layout = Layout::on_grid([3, 50_000], [3, 1]); // more than goes without being received
        let block = numbers([1, 50_000]);
        let words = to.write(world, &layout, &block, &about()).unwrap_err().to_string();
        assert!(picture.write(world, &layout, &block).is_err());
        world.barrier()?;
        Ok(words)
    });
    for words in words.unwrap() {
        assert!(words.contains("missing/new.npy: cannot write"), "{words}");
    }
}

#[test]
fn two_jobs_that_write_one_file_leave_that_of_one() {
    let directory = tempdir().unwrap();
    let to = file(&directory, "both.npy");
    for _ in 0..20 {
        std::thread::scope(|scope| {
            for rows in [70_usize, 60] {
                let to = &to;
                scope.spawn(move || write(to, &Array2::from_elem((rows, 70), rows as f64), 2));
            }
        });
        let read = read(&to, 1);
        let rows = read.nrows() as f64;
        assert!(read.iter().all(|&value| value.to_bits() == rows.to_bits()), "a mixture");
        assert_eq!(names(&directory), ["both.npy"]);
    }
}

#[cfg(unix)]
#[test]
fn links_pipes_and_devices_stay_what_they_are() {
    use std::os::unix::fs::symlink;

    let directory = tempdir().unwrap();
    let array = numbers([5, 4]);
    fs::create_dir(directory.path().join("below")).unwrap();
    symlink("below/real.npy", directory.path().join("link.npy")).unwrap();
    symlink("link.npy", directory.path().join("link2.npy")).unwrap();
    for name in ["link.npy", "link2.npy"] {
        let (link, real) = (file(&directory, name), file(&directory, "below/real.npy"));
        // The first time the link leads to nothing.
        assert!(link.check_writable().is_ok());
        write(&link, &array, 2);
        assert!(fs::symlink_metadata(link.path()).unwrap().is_symlink());
        assert_eq!(read(&real, 1), array);
    }
    assert_eq!(names(&directory), ["below", "link.npy", "link2.npy"]);

    let pipe = file(&directory, "pipe.npy");
    nix::unistd::mkfifo(pipe.path(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(pipe.check_writable().is_ok());
    let bytes = std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read(pipe.path()).unwrap());
        write(&pipe, &array, 2);
        reader.join().unwrap()
    });
    assert_eq!(bytes, fs::read(directory.path().join("below/real.npy")).unwrap());
    symlink("/dev/null", directory.path().join("null.npy")).unwrap();
    write(&file(&directory, "null.npy"), &array, 2);
    assert_eq!(names(&directory), ["below", "link.npy", "link2.npy", "null.npy", "pipe.npy"]);
    assert!(fs::symlink_metadata(directory.path().join("null.npy")).unwrap().is_symlink());
}

#[cfg(unix)]
#[test]
fn permissions_are_kept_and_read_only_files_refused() {
    use std::os::unix::fs::PermissionsExt;

    let directory = tempdir().unwrap();
    let to = file(&directory, "kept.npy");
    write(&to, &numbers([2, 2]), 1);
    let mode = |mode| fs::set_permissions(to.path(), fs::Permissions::from_mode(mode)).unwrap();
    for wanted in [0o640, 0o600, 0o666] {
        mode(wanted);
        write(&to, &numbers([3, 3]), 2);
        assert_eq!(fs::metadata(to.path()).unwrap().permissions().mode() & 0o7777, wanted);
    }
    mode(0o444);
    let refused = to.check_writable().unwrap_err().to_string();
    assert!(refused.contains("kept.npy") && refused.contains("read-only"), "{refused}");
    let written = crate::local(2, |world| {
        let layout = Layout::on_grid([2, 2], [2, 1]);
        Ok(to.write(world, &layout, &numbers([1, 2]), &about()).is_err())
    });
    assert_eq!(written.unwrap(), [true; 2]);
    assert_eq!(read(&to, 1), numbers([3, 3]));
}

#[test]
fn room_is_asked_for_before_it_is_needed() {
    let directory = tempdir().unwrap();
    let to = file(&directory, "large.npy");
    assert!(to.check_room::<f64>(&[100, 100]).is_ok());
    // Every disk is smaller.
    for shape in [[1 << 28, 1 << 28], [usize::MAX, usize::MAX]] {
        let refused = to.check_room::<f64>(&shape).unwrap_err();
        assert!(matches!(refused, FileError::NoRoom { .. }), "{refused}");
        assert!(refused.to_string().contains("large.npy: needs "), "{refused}");
    }
    assert!(names(&directory).is_empty());
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let directory = tempdir().unwrap();
    let to = file(&directory, "kept.npy");
    write(&to, &numbers([2, 2]), 1);
    let failed = crate::local(2, |world| {
        let layout = Layout::on_grid([4, 4], [2, 1]);
        if world.rank() == 1 {
            return Err(Failure::new("stopped before its block was sent"));
        }
        to.write(world, &layout, &numbers([2, 4]), &about())
    });
    assert!(failed.is_err());
    assert_eq!(read(&to, 1), numbers([2, 2]));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file is left");
}

#[test]
fn errors_of_files_name_the_callers_line() {
    let directory = tempdir().unwrap();
    let array = file(&directory, "missing/new.npy");
    let picture = directory.path().join("missing/new.png").to_str().unwrap().parse::<PictureFile>();
    let picture = picture.unwrap();
    crate::local(1, |world| {
        let layout = Layout::on_grid([2, 2], [1, 1]);
        let block = numbers([2, 2]);
        let failures = [
            (array.write(world, &layout, &block, &about()).unwrap_err(), line!()),
            (picture.write(world, &layout, &block).unwrap_err(), line!()),
        ];
        for (failure, line) in failures {
            let at = failure.location();
            assert_eq!((at.file(), at.line()), (file!(), line), "{failure}");
        }
        Ok(())
    })
    .unwrap();
}
