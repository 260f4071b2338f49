//! Values and their bytes: what may travel in a message, and how received bytes become values
//! again.
//!
//! This is the one place outside the engines with unsafe code. It exists so that a message lands in
//! the caller's own memory without a copy and yet no bit pattern that is not a value is ever seen
//! as one.

use std::{
    alloc::{Layout, alloc_zeroed},
    any::{Any, TypeId, type_name},
    mem::{MaybeUninit, size_of},
    ptr::NonNull,
};

use bytemuck::{CheckedBitPattern, NoUninit};

use crate::error::{ErrorKind, Fault};

/// A value that can travel in a message: plain data without padding or pointers.
///
/// Implemented for every type that has bytemuck's [`NoUninit`] and [`CheckedBitPattern`]: all
/// numbers, `bool`, `char`, arrays of those, and your own types by derive. A received bit pattern
/// that is no value of the type is an [`ErrorKind::InvalidValue`], never undefined behaviour.
///
/// A structure of numbers derives `NoUninit` and `AnyBitPattern`, and no other crate is needed. One
/// with fields that not every bit pattern is a value of (`bool`, `char`, enums) derives
/// `CheckedBitPattern` instead of `AnyBitPattern`; the code of that derive asks for `bytemuck`
/// among the crate's own dependencies (version 1, features `derive` and `min_const_generics`).
///
/// ```
/// #[derive(Clone, Copy, spmd::bytemuck::NoUninit, spmd::bytemuck::AnyBitPattern)]
/// #[bytemuck(crate = "spmd::bytemuck")]
/// #[repr(C)]
/// struct Particle {
///     position: [f64; 3],
///     charge: i64,
/// }
/// let got = spmd::local(2, |world| {
///     if world.rank() == 0 {
///         world.send(&[Particle { position: [1.0, 2.0, 3.0], charge: -1 }], 1)?;
///         return Ok(0);
///     }
///     Ok(world.recv::<Particle>(0)?.0[0].charge)
/// });
/// assert_eq!(got.unwrap(), [0, -1]);
/// ```
pub trait Datum: NoUninit + CheckedBitPattern + Send + 'static {}

impl<T: NoUninit + CheckedBitPattern + Send + 'static> Datum for T {}

/// What a message says of its elements' type: a reference to what is known of it, so that it costs
/// a message 8 bytes.
#[derive(Clone, Copy)]
pub(crate) struct Signature(&'static TypeFacts);

struct TypeFacts {
    id: Option<fn() -> TypeId>,
    name: fn() -> &'static str,
    size: usize,
}

/// Carries the facts of a type as a constant.
struct FactsOf<T>(std::marker::PhantomData<T>);

impl<T: Datum> FactsOf<T> {
    const FACTS: TypeFacts =
        TypeFacts { id: Some(TypeId::of::<T>), name: type_name::<T>, size: size_of::<T>() };
}

impl Signature {
    /// The signature of values of type `T`.
    pub(crate) fn of<T: Datum>() -> Self {
        const { assert!(size_of::<T>() > 0, "values without size have no bytes to send") }
        Self(&FactsOf::<T>::FACTS)
    }

    /// The signature of one serialized object, whatever its type.
    pub(crate) const OBJECT: Self =
        Self(&TypeFacts { id: None, name: || "a serialized object", size: 1 });

    /// The signature of a call that moves no data.
    pub(crate) const NOTHING: Self = Self(&TypeFacts { id: None, name: || "nothing", size: 1 });

    pub(crate) fn name(self) -> &'static str {
        (self.0.name)()
    }

    pub(crate) fn size(self) -> usize {
        self.0.size
    }

    /// A number that different signatures do not have.
    #[inline]
    pub(crate) fn word(&self) -> u64 {
        std::ptr::from_ref(self.0).addr() as u64
    }

    /// The signature in few bytes, for engines whose messages carry nothing else: 8 bytes of hash
    /// and the end of the name.
    pub(crate) fn stamp(self) -> Stamp {
        let mut stamp = [0; Stamp::BYTES];
        let name = self.name();
        let hash = fnv1a(name.bytes().chain(self.size().to_le_bytes()));
        stamp[..8].copy_from_slice(&hash.to_le_bytes());
        let short = name.rsplit("::").next().unwrap_or(name).as_bytes();
        let kept = short.len().min(Stamp::BYTES - 8);
        stamp[8..8 + kept].copy_from_slice(&short[short.len() - kept..]);
        Stamp(stamp)
    }
}

impl PartialEq for Signature {
    /// The facts of a type may lie at several addresses, one for each part that the compiler made
    /// of the program.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.is_same_type(*other)
    }
}

impl Eq for Signature {}

impl Signature {
    #[cold]
    fn is_same_type(self, other: Self) -> bool {
        match (self.0.id, other.0.id) {
            (Some(mine), Some(theirs)) => mine() == theirs(),
            (None, None) => self.name() == other.name(),
            _ => false,
        }
    }
}

impl std::fmt::Debug for Signature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A hash of bytes (Fowler, Noll and Vo, variant 1a): the same in every process.
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// A [`Signature`] as it travels between processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(pub(crate) [u8; Self::BYTES]);

impl Stamp {
    pub(crate) const BYTES: usize = 24;

    /// The type's name, or its end if it is long.
    pub(crate) fn name(&self) -> String {
        let name = String::from_utf8_lossy(&self.0[8..]);
        name.trim_end_matches('\0').to_owned()
    }
}

/// The bytes of values, to be sent.
pub(crate) fn bytes_of<T: Datum>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

/// Whether every bit pattern is a value of `T`.
///
/// bytemuck implements `CheckedBitPattern` with `Bits = Self` for every `AnyBitPattern`, and `Bits`
/// itself must be `AnyBitPattern`; so `Bits == T` holds only where every pattern is a value. The
/// test is a constant.
pub(crate) fn is_plain<T: Datum>() -> bool {
    TypeId::of::<T>() == TypeId::of::<T::Bits>()
}

/// The caller's values as bytes to be overwritten by a message, where any bytes are valid values of
/// `T`.
///
/// `None` for types like `bool`: their messages land in a [`Landing`] and are checked first.
#[allow(unsafe_code)]
pub(crate) fn bytes_of_mut<T: Datum>(values: &mut [T]) -> Option<&mut [u8]> {
    let bytes = size_of_val(values);
    // SAFETY: (1) `T: NoUninit`, so all `bytes` bytes of the slice are initialised; (2) `is_plain`
    // means that `T: AnyBitPattern`, so whatever is written leaves valid values; (3) `u8` has no
    // alignment; (4) the returned slice carries the exclusive borrow of `values`.
    is_plain::<T>()
        .then(|| unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast::<u8>(), bytes) })
}

/// Memory in which a message lands before it is known to hold values of `T`: initialised bytes,
/// aligned for `T`.
pub(crate) struct Landing<T> {
    memory: Vec<MaybeUninit<T>>,
}

impl<T: Datum> Landing<T> {
    /// Room for `count` values, all bytes zero; an error where there is no such memory.
    #[allow(unsafe_code)]
    pub(crate) fn new(count: usize) -> Result<Self, Fault> {
        let layout = Layout::array::<T>(count).map_err(|_| no_memory::<T>(count))?;
        let start = if layout.size() == 0 {
            NonNull::dangling()
        } else {
            // SAFETY: the layout's size is not zero.
            let start = unsafe { alloc_zeroed(layout) };
            NonNull::new(start.cast()).ok_or_else(|| no_memory::<T>(count))?
        };
        #[allow(
            clippy::same_length_and_capacity,
            reason = "allocated just now, full from the start"
        )]
        // SAFETY: the memory comes from the global allocator with the layout of `[T; count]`, which
        // is that of `[MaybeUninit<T>; count]`; `MaybeUninit` needs no initialisation. With size 0
        // any aligned pointer will do.
        let memory = unsafe { Vec::from_raw_parts(start.as_ptr(), count, count) };
        Ok(Self { memory })
    }

    /// The number of values that there is room for.
    pub(crate) fn len(&self) -> usize {
        self.memory.len()
    }

    /// The bytes to be written by the engine.
    #[allow(unsafe_code)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = size_of_val(self.memory.as_slice());
        // SAFETY: every way to make a `Landing` leaves all its bytes initialised (`new`: zeroed;
        // `from`: `T: NoUninit`).
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), bytes) }
    }

    /// Copies the first values, if their bytes are values of `T`.
    #[allow(unsafe_code)]
    pub(crate) fn copy_to(&self, into: &mut [T]) -> Result<(), Fault> {
        let landed = &self.memory[..into.len()];
        self.check(landed.len())?;
        // SAFETY: as many elements as `landed` has, initialised, and by the check values of `T`;
        // `MaybeUninit<T>` has its layout.
        into.copy_from_slice(unsafe {
            std::slice::from_raw_parts(landed.as_ptr().cast(), landed.len())
        });
        Ok(())
    }

    /// Whether the bytes of the first `count` elements are values of `T`.
    #[allow(unsafe_code)]
    fn check(&self, count: usize) -> Result<(), Fault> {
        if is_plain::<T>() {
            return Ok(());
        }
        for (index, element) in self.memory.iter().take(count).enumerate() {
            // SAFETY: the bytes are initialised (see `bytes_mut`); `T::Bits: AnyBitPattern` has the
            // layout of `T` (contract of `CheckedBitPattern`), so any initialised bytes are a
            // `T::Bits`.
            let bits = unsafe { element.as_ptr().cast::<T::Bits>().read() };
            if !T::is_valid_bit_pattern(&bits) {
                return Err(ErrorKind::InvalidValue { type_name: type_name::<T>(), index }.into());
            }
        }
        Ok(())
    }

    /// The first `count` values, if their bytes are values of `T`.
    #[allow(unsafe_code)]
    pub(crate) fn into_values(mut self, count: usize) -> Result<Vec<T>, Fault> {
        self.memory.truncate(count);
        self.check(count)?;
        let mut memory = std::mem::ManuallyDrop::new(self.memory);
        let (start, len, capacity) = (memory.as_mut_ptr(), memory.len(), memory.capacity());
        // SAFETY: the parts are those of a live vector that is never dropped; `MaybeUninit<T>` has
        // the layout of `T`; all `len` elements are initialised and, by the check above or by
        // `is_plain`, valid.
        Ok(unsafe { Vec::from_raw_parts(start.cast(), len, capacity) })
    }
}

impl<T: Datum> From<Vec<T>> for Landing<T> {
    #[allow(unsafe_code)]
    fn from(values: Vec<T>) -> Self {
        let mut values = std::mem::ManuallyDrop::new(values);
        let (start, len, capacity) = (values.as_mut_ptr(), values.len(), values.capacity());
        // SAFETY: the parts are those of a live vector that is never dropped; `MaybeUninit<T>` has
        // the layout of `T`.
        Self { memory: unsafe { Vec::from_raw_parts(start.cast(), len, capacity) } }
    }
}

/// As [`Landing`], for one value and on the stack.
pub(crate) struct Single<T>(MaybeUninit<T>);

impl<T: Datum> Single<T> {
    /// Room for a value, all bytes zero.
    pub(crate) fn new() -> Self {
        Self(MaybeUninit::zeroed())
    }

    /// Room that holds a value, whose bytes are all initialised (`T: NoUninit`).
    pub(crate) fn of(value: T) -> Self {
        Self(MaybeUninit::new(value))
    }

    /// The bytes to be written by the engine.
    #[allow(unsafe_code)]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: all bytes were zeroed by `new`, or are those of a value without padding (`of`),
        // and stay initialised whatever is written over them.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), size_of::<T>()) }
    }

    /// The value, if the bytes are one.
    #[allow(unsafe_code)]
    pub(crate) fn into_value(self) -> Result<T, Fault> {
        if !is_plain::<T>() {
            // SAFETY: initialised bytes, see `bytes_mut`; `T::Bits: AnyBitPattern` has the layout
            // of `T` (contract of `CheckedBitPattern`).
            let bits = unsafe { self.0.as_ptr().cast::<T::Bits>().read() };
            if !T::is_valid_bit_pattern(&bits) {
                return Err(
                    ErrorKind::InvalidValue { type_name: type_name::<T>(), index: 0 }.into()
                );
            }
        }
        // SAFETY: initialised bytes, and by the check above or by `is_plain` a value.
        Ok(unsafe { self.0.assume_init() })
    }
}

/// A buffer that an engine owns while a message is under way. Its bytes keep their address when the
/// box moves.
pub(crate) trait Buffer: Send + 'static {
    /// The bytes to send.
    fn bytes(&self) -> &[u8];
    /// The bytes to overwrite.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// The buffer itself, to be handed back to whoever lent it.
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// Values on their way out.
pub(crate) struct Outgoing<T>(pub(crate) Vec<T>);

impl<T: Datum> Buffer for Outgoing<T> {
    fn bytes(&self) -> &[u8] {
        bytes_of(&self.0)
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut []
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl<T: Datum> Buffer for Landing<T> {
    fn bytes(&self) -> &[u8] {
        &[]
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        Landing::bytes_mut(self)
    }
    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Memory that an operation under way reads or writes.
pub(crate) enum Memory {
    /// Kept alive by the engine until the operation is over.
    Owned(Box<dyn Buffer>),
    /// Kept alive by whoever lends it until the operation is over, which reads it.
    Read(LentRead),
    /// As `Read`, of an operation that writes.
    Write(LentWrite),
}

impl Memory {
    /// The bytes to send.
    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Owned(buffer) => buffer.bytes(),
            Self::Read(lent) => lent.bytes(),
            Self::Write(lent) => lent.bytes(),
        }
    }

    /// The bytes to overwrite.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Owned(buffer) => buffer.bytes_mut(),
            Self::Read(_) => &mut [],
            Self::Write(lent) => lent.bytes_mut(),
        }
    }

    /// The buffer, if it is not the lender's.
    pub(crate) fn into_owned(self) -> Option<Box<dyn Buffer>> {
        match self {
            Self::Owned(buffer) => Some(buffer),
            Self::Read(_) | Self::Write(_) => None,
        }
    }
}

/// Bytes that somebody lends for longer than a call, to be read: by the promise of its maker.
#[derive(Clone, Copy)]
pub(crate) struct LentRead {
    start: NonNull<u8>,
    len: usize,
}

/// Bytes that somebody lends for longer than a call, to be read and written: by the promise of its
/// maker.
pub(crate) struct LentWrite {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: by the promise of its maker the bytes are the holder's to read, on any thread, until it
// is over.
#[allow(unsafe_code)]
unsafe impl Send for LentRead {}

// SAFETY: by the promise of its maker the bytes are the holder's to use, on any thread, until it is
// over.
#[allow(unsafe_code)]
unsafe impl Send for LentWrite {}

#[allow(unsafe_code)]
impl LentRead {
    /// No bytes.
    pub(crate) const NOTHING: Self = Self { start: NonNull::dangling(), len: 0 };

    /// Lends `len` bytes.
    ///
    /// # Safety
    /// Until the loan is over (each taker says when) the bytes stay valid, initialised and
    /// unchanged.
    pub(crate) unsafe fn new(start: *const u8, len: usize) -> Self {
        Self { start: NonNull::new(start.cast_mut()).unwrap_or(NonNull::dangling()), len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: by the promise of the maker.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// Where the bytes begin.
    #[cfg(feature = "mpi")]
    pub(crate) fn start(&self) -> *const u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[allow(unsafe_code)]
impl LentWrite {
    /// No bytes.
    pub(crate) const NOTHING: Self = Self { start: NonNull::dangling(), len: 0 };

    /// Lends `len` bytes.
    ///
    /// # Safety
    /// Until the loan is over (each taker says when) the bytes stay valid, initialised, and nobody
    /// else's.
    pub(crate) unsafe fn new(start: *mut u8, len: usize) -> Self {
        Self { start: NonNull::new(start).unwrap_or(NonNull::dangling()), len }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: by the promise of the maker.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the promise of the maker.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }

    /// Where the bytes begin.
    pub(crate) fn start(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Makes a [`Landing`] for so many bytes of `T`, or one more than whole elements need.
pub(crate) fn landing<T: Datum>(bytes: usize) -> Box<dyn Buffer> {
    match Landing::<T>::new(bytes.div_ceil(size_of::<T>())) {
        Ok(landing) => Box::new(landing),
        // So many bytes are there, in the memory of another rank.
        Err(fault) => panic!("{fault}"),
    }
}

#[cold]
fn no_memory<T>(count: usize) -> Fault {
    let what = format!("there is no memory for {count} values of {}", type_name::<T>());
    ErrorKind::InvalidArgument { what }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn landing_returns_what_was_written() {
        let mut landing = Landing::<u32>::new(3).unwrap();
        landing.bytes_mut().copy_from_slice(bytes_of(&[1_u32, 2, 3]));
        assert_eq!(landing.into_values(2).unwrap(), [1, 2]);
    }

    #[test]
    fn landing_refuses_bytes_that_are_no_values() {
        let mut landing = Landing::<bool>::new(3).unwrap();
        landing.bytes_mut().copy_from_slice(&[1, 0, 7]);
        let expected = ErrorKind::InvalidValue { type_name: "bool", index: 2 };
        assert_eq!(landing.into_values(3).unwrap_err(), expected.into());
    }

    #[test]
    fn landing_holds_no_and_empty_values() {
        assert!(Landing::<f64>::new(0).unwrap().into_values(0).unwrap().is_empty());
        assert_eq!(Landing::<[u8; 0]>::new(4).unwrap().into_values(4).unwrap().len(), 4);
        assert_eq!(Landing::from(vec![true, false]).into_values(1).unwrap(), [true]);
    }

    #[test]
    fn only_plain_types_are_written_in_place() {
        assert!(bytes_of_mut(&mut [0_u64, 1]).is_some());
        assert!(bytes_of_mut(&mut [false]).is_none());
        assert!(bytes_of_mut(&mut ['a']).is_none());
    }
}
