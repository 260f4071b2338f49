//! HDF5's own calls where the safe library lacks them: transfers of every type of number, and by
//! all ranks together.

use std::{
    ffi::{CString, c_void},
    os::unix::ffi::OsStrExt,
    path::Path,
    ptr,
};

use hdf5::{Dataset, Datatype, from_id, globals::H5T_NATIVE_DOUBLE, h5check, sync::sync};
use hdf5_sys::{
    h5::hsize_t,
    h5d::H5Dread,
    h5f::H5Fis_hdf5,
    h5i::hid_t,
    h5p::H5P_DEFAULT,
    h5s::{H5S_SELECT_SET, H5Sclose, H5Screate_simple, H5Sselect_hyperslab, H5Sselect_none},
    h5t::{
        H5T_class_t, H5Tget_class, H5Tget_fields, H5Tget_offset, H5Tget_precision, H5Tget_super,
    },
};
#[cfg(feature = "phdf5")]
use hdf5_sys::{
    h5d::H5Dwrite,
    h5p::{H5FD_mpio_xfer_t, H5P_CLS_DATASET_XFER, H5Pclose, H5Pcreate, H5Pset_dxpl_mpio},
};
use ndarray::Array2;
#[cfg(feature = "phdf5")]
use ndarray::ArrayRef2;

use super::super::Block;

/// What the elements of a type are, as far as this library asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Float,
    /// Integers with names, such as `bool`.
    Enum,
    Bitfield,
    Other,
}

/// What the elements of this type are.
pub(super) fn kind(of: &Datatype) -> Kind {
    // SAFETY: the type is open; the lock is held.
    let class = |id| unsafe { H5Tget_class(id) };
    sync(|| match class(of.id()) {
        H5T_class_t::H5T_INTEGER => Kind::Integer,
        H5T_class_t::H5T_FLOAT => Kind::Float,
        H5T_class_t::H5T_BITFIELD => Kind::Bitfield,
        H5T_class_t::H5T_ENUM => Kind::Enum,
        _ => Kind::Other,
    })
}

/// Whether HDF5 converts such elements to `f64`, and can: it believes what a file says of bits that
/// lie outside of their bytes.
pub(super) fn is_number(of: &Datatype) -> bool {
    /// As large as a `long double`.
    const LARGEST: usize = 16;
    let (size, bits) = (of.size(), of.size() * 8);
    let within = |start: usize, len: usize| start.checked_add(len).is_some_and(|end| end <= bits);
    let id = of.id();
    match kind(of) {
        Kind::Integer | Kind::Float if size > LARGEST => false,
        Kind::Integer => {
            // SAFETY: the type is open; the lock is held.
            let (offset, precision) = sync(|| unsafe { (H5Tget_offset(id), H5Tget_precision(id)) });
            precision > 0 && usize::try_from(offset).is_ok_and(|offset| within(offset, precision))
        }
        Kind::Float => {
            let [mut sign, mut exponent, mut fraction] = [0; 3];
            let (mut exponent_len, mut fraction_len) = (0, 0);
            // SAFETY: the type is open; the library writes five integers.
            let told = sync(|| unsafe {
                let (exponent, fraction) = (&raw mut exponent, &raw mut fraction);
                let (exponent_len, fraction_len) = (&raw mut exponent_len, &raw mut fraction_len);
                H5Tget_fields(id, &raw mut sign, exponent, exponent_len, fraction, fraction_len)
            });
            told >= 0
                && within(sign, 1)
                && (1..=32).contains(&exponent_len)
                && within(exponent, exponent_len)
                && fraction_len > 0
                && within(fraction, fraction_len)
        }
        Kind::Enum => {
            // SAFETY: the type is open; the lock is held. The result is a type of our own.
            let base = sync(|| h5check(unsafe { H5Tget_super(id) }));
            // SAFETY: nobody else closes it.
            let base = base.and_then(|id| unsafe { from_id::<Datatype>(id) });
            base.is_ok_and(|base| base.size() == size && is_number(&base))
        }
        Kind::Bitfield | Kind::Other => false,
    }
}

/// Whether a file begins as the library's do.
pub(super) fn is_hdf5(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a string that ends with a zero byte and outlives the call.
    sync(|| unsafe { H5Fis_hdf5(path.as_ptr()) }) > 0
}

/// Reads a block of a dataset into `values`, each element converted to `f64` by HDF5, which knows
/// every size and order.
pub(super) fn read(dataset: &Dataset, block: &Block, values: &mut Array2<f64>) -> hdf5::Result<()> {
    let selection = Selection::new(dataset, block)?;
    let lengths = block.clone().map(|range| range.len());
    assert!(values.is_standard_layout() && values.dim() == (lengths[0], lengths[1]), "room for it");
    // SAFETY:
    // 1. All ids are open: `dataset` and the handles outlive the call.
    // 2. HDF5 writes to the pointer what is selected in `in_memory`: nothing, or as many doubles as
    //    `values` holds, which lie together in the order of rows; checked above.
    // 3. `sync` holds the library's lock.
    let mut read = || unsafe {
        H5Dread(
            dataset.id(),
            *H5T_NATIVE_DOUBLE,
            selection.in_memory.id,
            selection.in_file.id,
            H5P_DEFAULT,
            values.as_mut_ptr().cast::<c_void>(),
        )
    };
    sync(|| h5check(read())).map(drop)
}

/// Writes a rank's block of a dataset, which may be empty, in one transfer of all ranks.
///
/// # Collective
/// All ranks of the communicator that the file was opened on.
#[cfg(feature = "phdf5")]
pub(super) fn write_collectively(
    dataset: &Dataset,
    block: &Block,
    values: &ArrayRef2<f64>,
) -> hdf5::Result<()> {
    let values = values.as_standard_layout();
    let lengths = block.clone().map(|range| range.len());
    assert_eq!(values.dim(), (lengths[0], lengths[1]), "the block is this rank's");
    let selection = Selection::new(dataset, block)?;
    let transfer = Handle::collective_transfer()?;
    // SAFETY:
    // 1. All ids are open: `dataset` and the handles outlive the call.
    // 2. HDF5 reads from the pointer what is selected in `in_memory`: nothing, or as many doubles
    //    as `values` holds, which lie together in the order of rows; checked above.
    // 3. `sync` holds the library's lock.
    let write = || unsafe {
        H5Dwrite(
            dataset.id(),
            *H5T_NATIVE_DOUBLE,
            selection.in_memory.id,
            selection.in_file.id,
            transfer.id,
            values.as_ptr().cast::<c_void>(),
        )
    };
    sync(|| h5check(write())).map(drop)
}

/// A block of a 2-D dataset, and memory that holds it and nothing else.
struct Selection {
    in_file: Handle,
    in_memory: Handle,
}

impl Selection {
    fn new(dataset: &Dataset, block: &Block) -> hdf5::Result<Self> {
        let shape = dataset.shape();
        let &[rows, columns] = shape.as_slice() else {
            return Err("the dataset has not two axes".into());
        };
        assert!(block[0].end <= rows && block[1].end <= columns, "the block is in the array");
        let in_file = Handle::space([rows, columns])?;
        let lengths = block.clone().map(|range| range.len());
        // A space without cells cannot be made on all versions: one cell, of which none is
        // selected.
        let in_memory = Handle::space(lengths.map(|len| len.max(1)))?;
        if lengths.contains(&0) {
            in_file.select_none()?;
            in_memory.select_none()?;
        } else {
            in_file.select(block)?;
        }
        Ok(Self { in_file, in_memory })
    }
}

/// An id of the library's own, closed when dropped.
struct Handle {
    id: hid_t,
    close: unsafe extern "C" fn(hid_t) -> i32,
}

impl Handle {
    /// A data space of this shape.
    fn space(shape: [usize; 2]) -> hdf5::Result<Self> {
        let shape = shape.map(|len| len as hsize_t);
        // SAFETY: HDF5 reads two lengths from `shape`; null stands for the same lengths as the
        // largest.
        let id = sync(|| h5check(unsafe { H5Screate_simple(2, shape.as_ptr(), ptr::null()) }))?;
        Ok(Self { id, close: H5Sclose })
    }

    /// The properties of a transfer that all ranks make together.
    #[cfg(feature = "phdf5")]
    fn collective_transfer() -> hdf5::Result<Self> {
        // SAFETY: the class is one of the library's own, which it has set up: `sync` starts it.
        let id = sync(|| h5check(unsafe { H5Pcreate(*H5P_CLS_DATASET_XFER) }))?;
        let list = Self { id, close: H5Pclose };
        let mode = H5FD_mpio_xfer_t::H5FD_MPIO_COLLECTIVE;
        // SAFETY: the list is open and of the class that has this property.
        sync(|| h5check(unsafe { H5Pset_dxpl_mpio(list.id, mode) }))?;
        Ok(list)
    }

    fn select(&self, block: &Block) -> hdf5::Result<()> {
        let start = block.clone().map(|range| range.start as hsize_t);
        let count = block.clone().map(|range| range.len() as hsize_t);
        // SAFETY: the space is open and has two axes; HDF5 reads two numbers from each pointer that
        // is not null, and null stands for ones.
        let select = || unsafe {
            H5Sselect_hyperslab(
                self.id,
                H5S_SELECT_SET,
                start.as_ptr(),
                ptr::null(),
                count.as_ptr(),
                ptr::null(),
            )
        };
        sync(|| h5check(select())).map(drop)
    }

    fn select_none(&self) -> hdf5::Result<()> {
        // SAFETY: the space is open.
        sync(|| h5check(unsafe { H5Sselect_none(self.id) })).map(drop)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the id is open, of the kind that `close` closes, and nobody else's.
        sync(|| unsafe { (self.close)(self.id) });
    }
}

#[cfg(test)]
mod tests {
    use hdf5::{Conversion, globals};
    use hdf5_sys::h5t::{H5Tcopy, H5Tset_ebias, H5Tset_fields, H5Tset_precision, H5Tset_size};
    use tempfile::tempdir;

    use super::{
        super::{FileError, Reader},
        *,
    };

    /// A type of the library's own, changed by its calls.
    fn like(known: hid_t, change: impl FnOnce(hid_t)) -> Datatype {
        // SAFETY: the type is one of the library's own; the copy is ours.
        let copy = sync(|| h5check(unsafe { H5Tcopy(known) })).unwrap();
        sync(|| change(copy));
        // SAFETY: nobody else closes the copy.
        unsafe { from_id(copy) }.unwrap()
    }

    #[test]
    fn numbers_that_rust_has_no_type_for_are_read() {
        let float = |fields: [usize; 5], bias| {
            let [sign, exponent, exponent_len, fraction, fraction_len] = fields;
            // SAFETY: the type is open, and all parts are within its two bytes.
            like(*globals::H5T_IEEE_F32LE, |id| unsafe {
                H5Tset_fields(id, sign, exponent, exponent_len, fraction, fraction_len);
                H5Tset_size(id, 2);
                H5Tset_ebias(id, bias);
            })
        };
        // SAFETY: the type is open, and three bytes have 24 bits.
        let integer = like(*globals::H5T_STD_I32LE, |id| unsafe {
            H5Tset_size(id, 3);
            H5Tset_precision(id, 24);
        });
        let directory = tempdir().unwrap();
        let numbers = ndarray::array![[0.0, -1.0, 2.0], [100.0, -8.0, 5.0]];
        for (name, element) in [
            ("float16", float([15, 10, 5, 0, 10], 15)),
            ("bfloat16", float([15, 7, 8, 0, 7], 127)),
            ("int24", integer),
        ] {
            let path = directory.path().join(format!("{name}.h5"));
            let file = hdf5::File::create(&path).unwrap();
            let builder = file.new_dataset_builder().with_data_as(&numbers, element);
            builder.conversion(Conversion::Soft).create("z").unwrap();
            file.close().unwrap();
            let reader = Reader::open(&path, None).unwrap();
            assert_eq!(reader.read(&[0..2, 0..3]).unwrap(), numbers, "{name}");
            assert_eq!(reader.read(&[1..2, 1..3]).unwrap(), ndarray::array![[-8.0, 5.0]], "{name}");
        }
    }

    #[test]
    fn bits_outside_of_their_bytes_are_no_number() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("bits.h5");
        let file = hdf5::File::create(&path).unwrap();
        file.new_dataset_builder().with_data(&ndarray::array![[1_i16, 2]]).create("z").unwrap();
        file.close().unwrap();
        assert!(Reader::open(&path, None).is_ok());
        // The type in the file: class and version, flags (of which one says that there is a sign),
        // size, offset, precision.
        let mut bytes = std::fs::read(&path).unwrap();
        let stored = [0x10, 8, 0, 0, 2, 0, 0, 0, 0, 0, 16, 0];
        let at = bytes.windows(stored.len()).position(|bytes| bytes == stored).unwrap();
        bytes[at + 10] = 200;
        std::fs::write(&path, bytes).unwrap();
        let error = Reader::open(&path, Some("z")).map(drop).unwrap_err();
        assert!(matches!(error, FileError::UnsupportedType { .. }), "{error}");
    }

    #[test]
    fn names_of_numbers_are_read_as_the_numbers_and_bits_are_none() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("bools.h5");
        let file = hdf5::File::create(&path).unwrap();
        let bools = ndarray::array![[true, false], [false, true]];
        file.new_dataset_builder().with_data(&bools).create("z").unwrap();
        file.close().unwrap();
        let read = Reader::open(&path, None).unwrap().read(&[0..2, 0..2]).unwrap();
        assert_eq!(read, ndarray::array![[1.0, 0.0], [0.0, 1.0]]);

        let path = directory.path().join("bits.h5");
        let file = hdf5::File::create(&path).unwrap();
        let bits = like(*globals::H5T_STD_B8LE, |_| ());
        file.new_dataset_builder().empty_as(bits).shape([3, 4]).create("z").unwrap();
        file.close().unwrap();
        let error = Reader::open(&path, None).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("none") && error.contains("/z: [3, 4] of 8-bit bitfield"),
            "{error}"
        );
        let error = Reader::open(&path, Some("z")).map(drop).unwrap_err().to_string();
        assert!(error.contains("bits.h5:z") && error.contains("8-bit bitfield"), "{error}");
    }
}
