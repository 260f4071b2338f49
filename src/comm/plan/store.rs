//! The buffers of a plan.

use std::{any::Any, ptr::NonNull};

use crate::{
    datum::{Datum, Landing, LentRead, LentWrite, is_plain},
    engine::Received,
    error::{ErrorKind, Fault},
};

/// By the places that their handles name.
pub(super) type Stores = [Box<dyn AnyStore>];

/// The store of a place; its type is that of the handle, which nobody else can make.
pub(super) fn store<T: Datum>(stores: &mut Stores, place: usize) -> Result<&mut Store<T>, Fault> {
    stores[place].as_any_mut().downcast_mut().ok_or_else(|| ErrorKind::Closed.into())
}

/// A buffer of a plan.
///
/// # Invariants
/// 1. `values` is a boxed slice that this store owns. It is reached through this pointer only, so
///    that an engine which was given the address long ago may use it whenever the plan is under
///    way, and the program whenever it is not.
/// 2. Bytes from elsewhere are written there only if all bytes are values of `T`; else into
///    `landing`.
pub(super) struct Store<T> {
    values: NonNull<[T]>,
    landing: Option<Landing<T>>,
    received: Option<Received>,
}

impl<T: Datum> Store<T> {
    pub(super) fn new(values: Vec<T>, receives: bool) -> Self {
        // Its bytes are values that are there already, so that it asks for no memory that may not
        // be had.
        let landing = (receives && !is_plain::<T>()).then(|| Landing::from(values.clone()));
        let values = NonNull::from(Box::leak(values.into_boxed_slice()));
        Self { values, landing, received: None }
    }

    pub(super) fn values(&self) -> &[T] {
        // SAFETY: invariant 1; `Plan` calls this while nothing is under way, or for a buffer that
        // is only read meanwhile.
        unsafe { self.values.as_ref() }
    }

    pub(super) fn values_mut(&mut self) -> &mut [T] {
        // SAFETY: invariant 1; `Plan` calls this while nothing is under way, or for a buffer that
        // no engine was given.
        unsafe { self.values.as_mut() }
    }

    /// Takes what has landed over, if it is values.
    fn take_landed(&mut self, count: usize) -> Result<(), Fault> {
        let Some(landing) = &self.landing else { return Ok(()) };
        // SAFETY: invariant 1; the operation that writes into this store is over, and no other was
        // given it.
        landing.copy_to(unsafe { &mut self.values.as_mut()[..count] })
    }
}

impl<T> Drop for Store<T> {
    fn drop(&mut self) {
        // SAFETY: made of a box by `new`, and freed once.
        drop(unsafe { Box::from_raw(self.values.as_ptr()) });
    }
}

/// A store, whatever its type.
pub(super) trait AnyStore {
    /// The bytes to be sent.
    fn outlet(&mut self) -> LentRead;
    /// The bytes to be written from elsewhere.
    fn inlet(&mut self) -> LentWrite;
    /// A message has been written.
    fn accept(&mut self, received: Received) -> Result<(), Fault>;
    /// All bytes have been written.
    fn accept_all(&mut self) -> Result<(), Fault>;
    fn received(&self) -> Option<Received>;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Datum> AnyStore for Store<T> {
    fn outlet(&mut self) -> LentRead {
        let bytes = size_of_val(self.values());
        // SAFETY: initialised bytes of this store (`T: NoUninit`). They stay valid until it is
        // dropped, which happens when nothing is under way (`Plan::drop`); while something is,
        // `Plan` gives nobody else the values (`rested`).
        unsafe { LentRead::new(self.values.cast::<u8>().as_ptr(), bytes) }
    }

    fn inlet(&mut self) -> LentWrite {
        match &mut self.landing {
            None => {
                let bytes = size_of_val(self.values());
                // SAFETY: as for `outlet`; any bytes are values.
                unsafe { LentWrite::new(self.values.cast::<u8>().as_ptr(), bytes) }
            }
            Some(landing) => {
                let bytes = landing.bytes_mut();
                // SAFETY: as for `outlet`; the landing's memory does not move, and is looked at
                // only by `take_landed`.
                unsafe { LentWrite::new(bytes.as_mut_ptr(), bytes.len()) }
            }
        }
    }

    fn accept(&mut self, received: Received) -> Result<(), Fault> {
        self.received = Some(received);
        self.take_landed(received.bytes / size_of::<T>())
    }

    fn accept_all(&mut self) -> Result<(), Fault> {
        self.take_landed(self.values.len())
    }

    fn received(&self) -> Option<Received> {
        self.received
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
