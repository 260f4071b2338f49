//! HDF5's own calls where the safe library lacks them: transfers of every type of element and number
//! of axes, and by all ranks together.

use std::{
    ffi::{CString, c_int, c_void},
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
    path::Path,
    ptr,
};

use hdf5::{
    Dataset, Datatype, from_id, h5check,
    plist::file_access::FileDriver,
    sync::sync,
    types::{CompoundField, CompoundType, FloatSize, IntSize, TypeDescriptor},
};
#[cfg(feature = "phdf5")]
use hdf5_sys::h5p::{
    H5FD_mpio_xfer_t, H5P_CLS_DATASET_XFER, H5Pclose, H5Pcreate, H5Pset_dxpl_mpio,
};
use hdf5_sys::{
    h5::hsize_t,
    h5d::{H5Dread, H5Dwrite},
    h5f::{H5Fget_vfd_handle, H5Fis_hdf5},
    h5i::hid_t,
    h5p::H5P_DEFAULT,
    h5s::{H5S_SELECT_SET, H5Sclose, H5Screate_simple, H5Sselect_hyperslab, H5Sselect_none},
    h5t::{
        H5T_class_t, H5T_sign_t, H5Tget_class, H5Tget_fields, H5Tget_member_type, H5Tget_offset,
        H5Tget_precision, H5Tget_sign, H5Tget_super,
    },
};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::super::Part;
use crate::scalar::Element;

/// Keeps a file that one process has opened to that process: what it starts would inherit it, and with it
/// the lock, so that nobody could open the file as long as that lives.
pub(super) fn keep(file: hdf5::File) -> hdf5::File {
    if !file.access_plist().is_ok_and(|how| matches!(how.driver(), FileDriver::Sec2)) {
        return file;
    }
    let mut handle: *mut c_void = ptr::null_mut();
    sync(|| {
        // SAFETY: the file is open, and the lock is held; a pointer is written on success.
        let told = unsafe { H5Fget_vfd_handle(file.id(), H5P_DEFAULT, &raw mut handle) };
        if told >= 0 && !handle.is_null() {
            // SAFETY: to a descriptor with this driver, which is open as long as the file is.
            let descriptor = unsafe { BorrowedFd::borrow_raw(handle.cast::<c_int>().read()) };
            // Otherwise it is as it was.
            let _ = fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
        }
    });
    file
}

/// What the elements of a type are, as far as this library asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Integer,
    Float,
    /// Integers with names, such as `bool`.
    Enum,
    Bitfield,
    /// Several values with names.
    Compound,
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
        H5T_class_t::H5T_COMPOUND => Kind::Compound,
        _ => Kind::Other,
    })
}

/// The smallest element that has all values of a type of the file, if HDF5 can convert them: it
/// believes what a file says of bits that lie outside of their bytes. Larger numbers than any
/// element are floats of 64 bits, to the nearest.
pub(super) fn element(of: &Datatype) -> Option<Element> {
    /// As large as a `long double`.
    const LARGEST: usize = 16;
    let (size, bits) = (of.size(), of.size() * 8);
    let within = |start: usize, len: usize| start.checked_add(len).is_some_and(|end| end <= bits);
    let id = of.id();
    match kind(of) {
        Kind::Integer | Kind::Float if size > LARGEST => None,
        Kind::Integer => {
            // SAFETY: the type is open; the lock is held.
            let (offset, precision, sign) =
                sync(|| unsafe { (H5Tget_offset(id), H5Tget_precision(id), H5Tget_sign(id)) });
            let fits = precision > 0
                && usize::try_from(offset).is_ok_and(|offset| within(offset, precision));
            fits.then_some(match (precision, sign == H5T_sign_t::H5T_SGN_NONE) {
                (..=8, true) => Element::U8,
                (..=16, true) => Element::U16,
                (..=32, true) => Element::U32,
                (..=64, true) => Element::U64,
                (..=8, false) => Element::I8,
                (..=16, false) => Element::I16,
                (..=32, false) => Element::I32,
                (..=64, false) => Element::I64,
                _ => Element::F64,
            })
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
            let fits = told >= 0
                && within(sign, 1)
                && (1..=32).contains(&exponent_len)
                && within(exponent, exponent_len)
                && fraction_len > 0
                && within(fraction, fraction_len);
            fits.then_some(match (exponent_len, fraction_len) {
                (..=5, ..=10) => Element::F16,
                (..=8, ..=23) => Element::F32,
                _ => Element::F64,
            })
        }
        Kind::Enum if matches!(of.to_descriptor(), Ok(TypeDescriptor::Boolean)) => {
            Some(Element::Bool)
        }
        Kind::Enum => {
            // SAFETY: the type is open; the lock is held. The result is a type of our own.
            let base = sync(|| h5check(unsafe { H5Tget_super(id) })).ok()?;
            // SAFETY: nobody else closes it.
            let base = unsafe { from_id::<Datatype>(base) }.ok()?;
            if base.size() == size { element(&base) } else { None }
        }
        Kind::Compound => match of.to_descriptor() {
            Ok(TypeDescriptor::Compound(parts)) if is_complex(&parts) => {
                match (member(of, 0)?, member(of, 1)?) {
                    (Element::F32, Element::F32) => Some(Element::Complex64),
                    (Element::F64, Element::F64) => Some(Element::Complex128),
                    _ => None,
                }
            }
            _ => None,
        },
        Kind::Bitfield | Kind::Other => None,
    }
}

/// Complex numbers are pairs by convention.
pub(super) fn is_complex(parts: &CompoundType) -> bool {
    parts.fields.iter().map(|field| field.name.as_str()).eq(["r", "i"])
}

/// The element of a part of a compound.
fn member(of: &Datatype, number: u32) -> Option<Element> {
    // SAFETY: the type is open and a compound; the library refuses a number that it has not. The
    // result is a type of our own.
    let id = sync(|| h5check(unsafe { H5Tget_member_type(of.id(), number) })).ok()?;
    // SAFETY: nobody else closes it.
    element(&unsafe { from_id::<Datatype>(id) }.ok()?)
}

/// The library's type of an element, in this machine's order.
pub(super) fn datatype(of: Element) -> hdf5::Result<Datatype> {
    use TypeDescriptor as Type;
    let pair = |part: FloatSize| {
        let field = |name: &str, index: usize| {
            let offset = index * part as usize;
            CompoundField::new(name, Type::Float(part), offset, index)
        };
        Type::Compound(CompoundType {
            fields: vec![field("r", 0), field("i", 1)],
            size: 2 * part as usize,
        })
    };
    Datatype::from_descriptor(&match of {
        Element::Bool => Type::Boolean,
        Element::I8 => Type::Integer(IntSize::U1),
        Element::I16 => Type::Integer(IntSize::U2),
        Element::I32 => Type::Integer(IntSize::U4),
        Element::I64 => Type::Integer(IntSize::U8),
        Element::U8 => Type::Unsigned(IntSize::U1),
        Element::U16 => Type::Unsigned(IntSize::U2),
        Element::U32 => Type::Unsigned(IntSize::U4),
        Element::U64 => Type::Unsigned(IntSize::U8),
        // In memory there are none: the library widens them.
        Element::F16 | Element::F32 => Type::Float(FloatSize::U4),
        Element::F64 => Type::Float(FloatSize::U8),
        Element::Complex64 => pair(FloatSize::U4),
        Element::Complex128 => pair(FloatSize::U8),
    })
}

/// Whether a file begins as the library's do.
pub(super) fn is_hdf5(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a string that ends with a zero byte and outlives the call.
    sync(|| unsafe { H5Fis_hdf5(path.as_ptr()) }) > 0
}

/// Reads a block of a dataset, each element converted by HDF5, which knows every size and order, to
/// the type that it has in memory; `bytes` are those of an array of the shape `room`, in which the
/// block goes to `place`.
pub(super) fn read(
    dataset: &Dataset,
    memory: &Datatype,
    part: &Part,
    (bytes, room, place): (&mut [u8], &[usize], &Part),
) -> hdf5::Result<()> {
    assert!(place.lens == part.lens && place.is_within(room), "room for the block");
    assert_eq!(Some(bytes.len()), size(memory, room), "the bytes are those of the array");
    let mut selection = Selection::new(dataset, part)?;
    if !part.is_empty() && *room != *part.lens {
        selection.in_memory = Handle::space(room)?;
        selection.in_memory.select(place)?;
    }
    // SAFETY:
    // 1. All ids are open: `dataset`, `memory` and the handles outlive the call.
    // 2. HDF5 writes to the pointer what is selected in `in_memory`: nothing, or elements of the
    //    type `memory` within an array that has as many bytes as `bytes`; checked above. None of
    //    our types in memory has pointers.
    // 3. `sync` holds the library's lock.
    let mut read = || unsafe {
        H5Dread(
            dataset.id(),
            memory.id(),
            selection.in_memory.id,
            selection.in_file.id,
            H5P_DEFAULT,
            bytes.as_mut_ptr().cast::<c_void>(),
        )
    };
    sync(|| h5check(read())).map(drop)
}

/// A block of a dataset, which may be empty, that is to be written.
pub(super) struct Write<'a> {
    dataset: &'a Dataset,
    memory: &'a Datatype,
    selection: Selection,
    bytes: &'a [u8],
    transfer: Transfer,
}

impl<'a> Write<'a> {
    /// All that a rank can do by itself; `bytes` are the elements of the block, the last axis
    /// fastest.
    pub(super) fn new(
        dataset: &'a Dataset,
        memory: &'a Datatype,
        part: &Part,
        bytes: &'a [u8],
        transfer: Transfer,
    ) -> hdf5::Result<Self> {
        let selection = Selection::new(dataset, part)?;
        assert_eq!(Some(bytes.len()), size(memory, &part.lens), "the block is complete");
        Ok(Self { dataset, memory, selection, bytes, transfer })
    }

    /// Writes it.
    ///
    /// # Collective
    /// With `Transfer::together()`: all ranks of the communicator that the file was opened on.
    pub(super) fn write(&self) -> hdf5::Result<()> {
        // SAFETY:
        // 1. All ids are open: the dataset, the type and the handles outlive the call.
        // 2. HDF5 reads from the pointer what is selected in `in_memory`: nothing, or as many
        //    elements of the type `memory` as `bytes` holds; checked in `new`.
        // 3. `sync` holds the library's lock.
        let write = || unsafe {
            H5Dwrite(
                self.dataset.id(),
                self.memory.id(),
                self.selection.in_memory.id,
                self.selection.in_file.id,
                self.transfer.id(),
                self.bytes.as_ptr().cast::<c_void>(),
            )
        };
        sync(|| h5check(write())).map(drop)
    }
}

/// The bytes of an array of this shape in memory, if they can be counted.
fn size(memory: &Datatype, shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape.iter().try_fold(memory.size(), |bytes, &len| bytes.checked_mul(len))
}

/// Who takes part in a transfer.
pub(super) struct Transfer(Option<Handle>);

impl Transfer {
    /// This rank alone.
    pub(super) const ALONE: Self = Self(None);

    /// All ranks that have opened the file.
    #[cfg(feature = "phdf5")]
    pub(super) fn together() -> hdf5::Result<Self> {
        // SAFETY: the class is one of the library's own, which it has set up: `sync` starts it.
        let id = sync(|| h5check(unsafe { H5Pcreate(*H5P_CLS_DATASET_XFER) }))?;
        let list = Handle { id, close: H5Pclose };
        let mode = H5FD_mpio_xfer_t::H5FD_MPIO_COLLECTIVE;
        // SAFETY: the list is open and of the class that has this property.
        sync(|| h5check(unsafe { H5Pset_dxpl_mpio(list.id, mode) }))?;
        Ok(Self(Some(list)))
    }

    fn id(&self) -> hid_t {
        self.0.as_ref().map_or(H5P_DEFAULT, |list| list.id)
    }
}

/// A block of a dataset, and memory that holds it and nothing else.
struct Selection {
    in_file: Handle,
    in_memory: Handle,
}

impl Selection {
    fn new(dataset: &Dataset, part: &Part) -> hdf5::Result<Self> {
        let shape = dataset.shape();
        assert!(part.is_within(&shape), "the block is in the array");
        let in_file = Handle::space(&shape)?;
        // A space without cells cannot be made on all versions: one cell, of which none is
        // selected.
        let lens: Vec<_> = part.lens.iter().map(|&len| len.max(1)).collect();
        let in_memory = Handle::space(&lens)?;
        if part.is_empty() {
            in_file.select_none()?;
            in_memory.select_none()?;
        } else if !shape.is_empty() {
            in_file.select(part)?; // of the one cell without an axis all is selected
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
    fn space(shape: &[usize]) -> hdf5::Result<Self> {
        let lens: Vec<_> = shape.iter().map(|&len| len as hsize_t).collect();
        let axes = lens.len() as i32;
        // SAFETY: HDF5 reads as many lengths as there are axes; null stands for the same lengths as
        // the largest.
        let id = sync(|| h5check(unsafe { H5Screate_simple(axes, lens.as_ptr(), ptr::null()) }))?;
        Ok(Self { id, close: H5Sclose })
    }

    fn select(&self, part: &Part) -> hdf5::Result<()> {
        let numbers = |of: &[usize]| of.iter().map(|&len| len as hsize_t).collect::<Vec<_>>();
        let (start, count) = (numbers(&part.start), numbers(&part.lens));
        // SAFETY: the space is open and has as many axes as `part`; HDF5 reads a number for each
        // from each pointer that is not null, and null stands for ones.
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
        super::{FileError, tests::read_block},
        *,
    };
    use crate::io::hdf5::Reader;

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
            assert_eq!(read_block(&path, [0..2, 0..3]), numbers, "{name}");
            assert_eq!(read_block(&path, [1..2, 1..3]), ndarray::array![[-8.0, 5.0]], "{name}");
        }
    }

    #[test]
    fn bits_outside_of_their_bytes_are_no_number() {
        let directory = tempdir().unwrap();
        let path = directory.path().join("bits.h5");
        let file = hdf5::File::create(&path).unwrap();
        file.new_dataset_builder().with_data(&ndarray::array![[1_i16, 2]]).create("z").unwrap();
        file.close().unwrap();
        assert!(Reader::open(&path, None, None).is_ok());
        // The type in the file: class and version, flags (of which one says that there is a sign),
        // size, offset, precision.
        let mut bytes = std::fs::read(&path).unwrap();
        let stored = [0x10, 8, 0, 0, 2, 0, 0, 0, 0, 0, 16, 0];
        let at = bytes.windows(stored.len()).position(|bytes| bytes == stored).unwrap();
        bytes[at + 10] = 200;
        std::fs::write(&path, bytes).unwrap();
        let error = Reader::open(&path, Some("z"), None).map(drop).unwrap_err();
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
        assert_eq!(read_block(&path, [0..2, 0..2]), ndarray::array![[1.0, 0.0], [0.0, 1.0]]);

        let path = directory.path().join("bits.h5");
        let file = hdf5::File::create(&path).unwrap();
        let bits = like(*globals::H5T_STD_B8LE, |_| ());
        file.new_dataset_builder().empty_as(bits).shape([3, 4]).create("z").unwrap();
        file.close().unwrap();
        let error = Reader::open(&path, None, Some(2)).map(drop).unwrap_err().to_string();
        assert!(
            error.contains("none") && error.contains("/z: [3, 4] of 8-bit bitfield"),
            "{error}"
        );
        let error = Reader::open(&path, Some("z"), None).map(drop).unwrap_err().to_string();
        assert!(error.contains("bits.h5:z") && error.contains("8-bit bitfield"), "{error}");
    }
}
