//! Operations that go on with borrowed data, shaped like [`std::thread::scope`].
//!
//! The engine gets the address of what is borrowed (`LentRead`, `LentWrite`). It is the caller's again when the
//! operation is over: after `wait` of its ticket, or at the end of the scope, which is reached in
//! every way out of the closure and completes or revokes what is under way. The scope lives in
//! [`Comm::scope`]'s own frame, where no safe program can forget it; tickets may be forgotten, they
//! hold no responsibility.

mod board;
mod collectives;

use std::{marker::PhantomData, mem::ManuallyDrop, time::Duration};

pub(super) use self::board::Entries;
use self::board::{Board, End};
use super::{
    Comm, Dest, Src, Status,
    view::{View, ViewMut},
};
use crate::{
    engine::{Mode, Op},
    error::{Call, Error, Result},
};

/// Where operations with borrowed data live; see [`Comm::scope`].
pub struct Scope<'scope, 'env: 'scope> {
    board: Board<'env>,
    /// Invariant, as in the standard library: a scope is not to be taken for one that ends earlier
    /// or later.
    lifetime: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// An operation with borrowed data under way.
///
/// Dropped or forgotten, it goes on to the end of its scope.
pub struct ScopedRequest<'scope, B: Borrowed> {
    board: &'scope Board<'scope>,
    place: Place,
    kept: B::Kept,
}

/// Where the outcome of a ticket is.
#[derive(Clone, Copy)]
enum Place {
    /// In an entry of the board.
    Entry(usize),
    /// Here: it was over as soon as it was started.
    Over(Status),
}

/// # Operations on borrowed buffers
///
/// As `std::thread::scope` does it for threads.
impl Comm {
    /// Opens a scope in which messages are sent out of borrowed data and received into borrowed
    /// data, without a copy, while the program goes on.
    ///
    /// When the closure returns `Ok`, all operations of the scope are completed before this call
    /// returns. When it returns an error or panics, those that go on are called back: a receive is
    /// withdrawn, a send that nobody receives too.
    ///
    /// # Errors
    /// The closure's own; else the first of an operation that was completed at the end.
    ///
    /// # Examples
    /// ```
    /// let sums = spmd::local(2, |world| {
    ///     let other = 1 - world.rank();
    ///     let mine = [world.rank() as f64; 1000];
    ///     let mut theirs = [0.0; 1000];
    ///     let sum = world.scope(|s| {
    ///         let receiving = s.irecv(&mut theirs, other)?;
    ///         s.isend(&mine, other)?;
    ///         let own: f64 = mine.iter().sum(); // meanwhile
    ///         let (theirs, _status) = receiving.wait()?; // the borrow comes back
    ///         Ok(own + theirs.iter().sum::<f64>())
    ///     })?;
    ///     assert_eq!(theirs[0], other as f64);
    ///     Ok(sum)
    /// });
    /// assert_eq!(sums.unwrap(), [1000.0, 1000.0]);
    /// ```
    ///
    /// Parts of one array that do not overlap are borrowed apart: a halo is received where it
    /// belongs while the border beside it is sent. Slices are taken apart by `split_at_mut`, arrays
    /// by `multi_slice_mut`:
    /// ```
    /// use spmd::ndarray::{Array2, s};
    /// let columns = spmd::local(2, |world| {
    ///     let (other, mut field) = (1 - world.rank(), Array2::from_elem((3, 4), world.rank()));
    ///     // the last column is a copy of the other's first
    ///     let (border, mut halo) = field.multi_slice_mut((s![.., 0], s![.., 3]));
    ///     world.scope(|s| {
    ///         s.irecv(&mut halo, other)?;
    ///         s.isend(&border, other)?;
    ///         Ok(())
    ///     })?;
    ///     let mut line = field.column(3).to_vec();
    ///     let (left, right) = line.split_at_mut(1);
    ///     world.sendrecv(left, other, &mut right[..1], other)?;
    ///     Ok(line)
    /// });
    /// assert_eq!(columns.unwrap(), [[1, 0, 1], [0, 1, 0]]);
    /// ```
    ///
    /// What is borrowed cannot be touched before the operation is over:
    /// ```compile_fail,E0499
    /// spmd::local(2, |world| {
    ///     let mut buffer = [0; 4];
    ///     world.scope(|s| {
    ///         let receiving = s.irecv(&mut buffer, 1)?;
    ///         buffer[0] = 1; // may be overwritten at this moment
    ///         receiving.wait()?;
    ///         Ok(())
    ///     })?;
    ///     Ok(())
    /// });
    /// ```
    pub fn scope<'env, R>(
        &'env self,
        body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> Result<R>,
    ) -> Result<R> {
        self.scope_with(body)
    }

    /// As [`Comm::scope`], with any error that ours becomes: [`Failure`](crate::Failure), the
    /// program's own, `anyhow::Error`.
    ///
    /// # Errors
    /// As [`Comm::scope`].
    ///
    /// # Examples
    /// ```
    /// use spmd::Failure;
    /// let got = spmd::local(2, |world| {
    ///     let (mut text, mine) = ([0; 2], *b"42");
    ///     let number = world.scope_with(|s| {
    ///         s.isend(&mine, 1 - world.rank())?;
    ///         let (text, _status) = s.irecv(&mut text, 1 - world.rank())?.wait()?;
    ///         let number: u32 = std::str::from_utf8(text)?.parse()?; // errors of three kinds
    ///         Ok::<_, Failure>(number)
    ///     })?;
    ///     Ok(number)
    /// });
    /// assert_eq!(got.unwrap(), [42; 2]);
    /// ```
    pub fn scope_with<'env, R, E: From<Error>>(
        &'env self,
        body: impl for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> Result<R, E>,
    ) -> Result<R, E> {
        let scope = Scope { board: Board::new(self), lifetime: PhantomData, env: PhantomData };
        let end = End(&scope.board);
        let result = body(&scope)?;
        scope.board.complete()?;
        drop(end);
        Ok(result)
    }
}

impl<'scope> Scope<'scope, '_> {
    /// Starts to send `values`; [`ScopedRequest::wait`] returns when they may change again.
    ///
    /// Values that are not in one piece are packed now.
    ///
    /// # Errors
    /// As [`Comm::send`].
    #[inline]
    #[track_caller]
    pub fn isend<V: View + ?Sized>(
        &'scope self,
        values: &'scope V,
        to: impl Into<Dest>,
    ) -> Result<ScopedRequest<'scope, &'scope V>> {
        let to = to.into();
        self.board.send(Call::new("isend", to.with()), Mode::Standard, values, to)
    }

    /// Starts to send `values`; [`ScopedRequest::wait`] returns when the receiver has begun to
    /// receive.
    ///
    /// # Errors
    /// As [`Comm::send`].
    #[track_caller]
    pub fn issend<V: View + ?Sized>(
        &'scope self,
        values: &'scope V,
        to: impl Into<Dest>,
    ) -> Result<ScopedRequest<'scope, &'scope V>> {
        let to = to.into();
        self.board.send(Call::new("issend", to.with()), Mode::Synchronous, values, to)
    }

    /// Starts to receive into `into`; [`ScopedRequest::wait`] gives the borrow back.
    ///
    /// Types that not all bytes are values of, and views that are not in one piece, are received by
    /// way of a copy and overwritten when the operation is completed.
    ///
    /// # Errors
    /// As [`Comm::recv_into`].
    #[inline]
    #[track_caller]
    pub fn irecv<V: ViewMut + ?Sized>(
        &'scope self,
        into: &'scope mut V,
        from: impl Into<Src>,
    ) -> Result<ScopedRequest<'scope, &'scope mut V>> {
        let from = from.into();
        self.board.receive(Call::new("irecv", from.with()), into, from)
    }

    /// Waits for all operations of this scope.
    ///
    /// # Errors
    /// The first of them that fails; the others are completed too. Its ticket, if there is one, has
    /// the same error.
    pub fn wait_all(&'scope self) -> Result<()> {
        self.board.complete()
    }

    /// Waits until one of the tickets is done, takes it out of the vector, and gives its place
    /// there and its result; `None` if there is none.
    ///
    /// The tickets behind it move up: the place counts as the vector was before.
    ///
    /// # Errors
    /// As [`ScopedRequest::wait`], of a ticket that is taken out too.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     if world.rank() > 0 {
    ///         world.send(&world.rank(), 0)?;
    ///         return Ok(0);
    ///     }
    ///     let (mut one, mut two) = (0_usize, 0_usize);
    ///     world.scope(|s| {
    ///         let mut tickets = vec![s.irecv(&mut one, 1)?, s.irecv(&mut two, 2)?];
    ///         let mut sum = 0;
    ///         while let Some((_place, (value, _status))) = s.wait_any(&mut tickets)? {
    ///             sum += *value;
    ///         }
    ///         Ok(sum)
    ///     }).map_err(Into::into)
    /// });
    /// assert_eq!(got.unwrap()[0], 3);
    /// ```
    pub fn wait_any<B: Borrowed>(
        &'scope self,
        tickets: &mut Vec<ScopedRequest<'scope, B>>,
    ) -> Result<Option<(usize, B::Back)>> {
        let Some(first) = tickets.first() else { return Ok(None) };
        let ops: Vec<Op> = tickets.iter().map_while(ScopedRequest::op).collect();
        let place = match first.place {
            Place::Entry(entry) if ops.len() == tickets.len() => {
                // Of its own scope, which may be one round this one.
                let (comm, call) = (first.board.comm, first.board.call(entry));
                comm.perform(call, || comm.engine.wait_any(&ops, None))?.unwrap_or(0)
            }
            _ => ops.len(), // done already
        };
        Ok(Some((place, tickets.remove(place).wait()?)))
    }
}

impl<B: Borrowed> ScopedRequest<'_, B> {
    /// Waits until the operation is over; gives back what was borrowed, and what was received.
    ///
    /// # Errors
    /// As the blocking form of the operation; the error names the place where it was started.
    #[inline]
    pub fn wait(self) -> Result<B::Back> {
        let this = ManuallyDrop::new(self); // its place is given up by `finish`
        let status = match this.place {
            Place::Entry(entry) => this.board.finish(entry)?,
            Place::Over(status) => status,
        };
        // SAFETY: the operation is over.
        Ok(unsafe { B::give_back(this.kept, status) })
    }

    /// The result if the operation is over, else the ticket again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`ScopedRequest::wait`].
    pub fn test(self) -> Result<Result<B::Back>, Self> {
        match self.place {
            Place::Entry(entry) if !self.board.test(entry) => Err(self),
            _ => Ok(self.wait()),
        }
    }

    /// Waits for so long at most: the result if the operation is over by then, else the ticket
    /// again.
    ///
    /// # Errors
    /// `Err(self)` if the operation goes on; `Ok(Err(…))` as [`ScopedRequest::wait`].
    pub fn wait_for(self, limit: Duration) -> Result<Result<B::Back>, Self> {
        let (Some(op), Place::Entry(entry)) = (self.op(), self.place) else {
            return Ok(self.wait());
        };
        let comm = self.board.comm;
        comm.enter(self.board.call(entry));
        // A time beyond what the clock can hold is no limit.
        match comm.engine.wait_any(&[op], comm.engine.now().checked_add(limit)) {
            Ok(None) => Err(self),
            Ok(Some(_)) | Err(_) => Ok(self.wait()),
        }
    }

    fn op(&self) -> Option<Op> {
        match self.place {
            Place::Entry(entry) => self.board.op(entry),
            Place::Over(_) => None,
        }
    }
}

impl<B: Borrowed> Drop for ScopedRequest<'_, B> {
    fn drop(&mut self) {
        if let Place::Entry(entry) = self.place {
            self.board.disown(entry);
        }
    }
}

/// What an operation borrows: `&V` to be sent, `&mut V` to be received into.
pub trait Borrowed: sealed::Borrowed {}

impl<B: sealed::Borrowed> Borrowed for B {}

mod sealed {
    use super::Status;

    pub trait Borrowed {
        /// What a ticket holds meanwhile.
        type Kept: Copy;

        /// What [`ScopedRequest::wait`](super::ScopedRequest::wait) gives.
        type Back;

        /// The borrow again.
        ///
        /// # Safety
        /// `kept` was made of a borrow that is not over; the operation that used it is.
        unsafe fn give_back(kept: Self::Kept, status: Status) -> Self::Back;
    }

    impl<'scope, V: ?Sized> Borrowed for &'scope V {
        type Kept = &'scope V;
        type Back = &'scope V;

        unsafe fn give_back(kept: Self::Kept, _: Status) -> Self::Back {
            kept
        }
    }

    impl<'scope, V: ?Sized> Borrowed for &'scope mut V {
        /// No reference: the engine writes at this time.
        type Kept = *mut V;
        type Back = (&'scope mut V, Status);

        unsafe fn give_back(kept: Self::Kept, status: Status) -> Self::Back {
            // SAFETY: `kept` comes of an exclusive borrow for `'scope`, which nobody uses any more,
            // by the caller's promise.
            (unsafe { &mut *kept }, status)
        }
    }
}
