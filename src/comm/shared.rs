//! What all threads of a rank can use at the same time.

use std::{fmt, sync::Arc};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Comm, Dest, Src, Status, View,
    address::Space,
    all,
    object::{pack, unpack},
    p2p::status,
    view::contents,
};
use crate::{
    datum::{Datum, Landing, Signature, bytes_of, landing},
    engine::{Received, SharedEngine},
    error::{Call, Error, ErrorKind, Fault, Result},
};

/// The ranks of a communicator with a message space that all threads of a rank can use at the same
/// time, in rayon closures above all; see [`Comm::shared`].
///
/// Messages between two ranks with one tag keep their order if one thread sends and one receives
/// them; give each pair of threads a tag of its own.
#[derive(Clone)]
pub struct SharedComm {
    engine: Arc<dyn SharedEngine>,
    space: Space,
    rank: usize,
}

/// # Threads
///
/// Messages of all threads of a rank.
impl Comm {
    /// Opens a message space of the same ranks for all threads of each rank.
    ///
    /// # Collective
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] if the MPI library has not been given, or does not have, full thread support.
    ///
    /// # Examples
    /// Four threads of each rank exchange messages with those of the other:
    /// ```
    /// use rayon::prelude::*;
    /// let sums = spmd::local(2, |world| {
    ///     let shared = world.shared()?;
    ///     let other = 1 - shared.rank();
    ///     let tasks: Result<Vec<usize>, spmd::Error> = std::thread::scope(|threads| {
    ///         let start = |tag: u32| {
    ///             let shared = &shared;
    ///             threads.spawn(move || {
    ///                 shared.send(&[10 * tag as usize], (other, tag))?;
    ///                 Ok(shared.recv_one::<usize>((other, tag))?.0)
    ///             })
    ///         };
    ///         let threads: Vec<_> = (0..4).map(start).collect();
    ///         threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    ///     });
    ///     Ok(tasks?.par_iter().sum::<usize>())
    /// });
    /// assert_eq!(sums.unwrap(), [60, 60]);
    /// ```
    #[track_caller]
    pub fn shared(&self) -> Result<SharedComm> {
        self.perform(all("shared"), || {
            let engine = self.engine.shared(self.context, self.next_seq())?;
            Ok(SharedComm { engine, space: self.space(), rank: self.rank })
        })
    }
}

impl SharedComm {
    /// The rank of the caller.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// The number of ranks.
    pub fn size(&self) -> usize {
        self.space.size
    }

    /// As [`Comm::send`], from any thread.
    ///
    /// # Errors
    /// As [`Comm::send`].
    #[track_caller]
    pub fn send<V: View + ?Sized>(&self, values: &V, to: impl Into<Dest>) -> Result<()> {
        let to = to.into();
        self.perform(Call::new("shared send", to.with()), |call| {
            self.send_bytes(call, Signature::of::<V::Elem>(), bytes_of(&contents(values)), to)
        })
    }

    /// As [`Comm::recv`], on any thread.
    ///
    /// # Errors
    /// As [`Comm::recv`].
    #[track_caller]
    pub fn recv<T: Datum>(&self, from: impl Into<Src>) -> Result<(Vec<T>, Status)> {
        let from = from.into();
        self.perform(Call::new("shared recv", from.with()), |call| {
            if from.is_null() {
                return Ok((Vec::new(), Status::NULL));
            }
            self.receive(call, Signature::of::<T>(), from)
        })
    }

    /// As [`Comm::recv_one`], on any thread.
    ///
    /// # Errors
    /// As [`Comm::recv`]; [`ErrorKind::LengthMismatch`] if the message is not one value.
    #[track_caller]
    pub fn recv_one<T: Datum>(&self, from: impl Into<Src>) -> Result<(T, Status)> {
        let from = from.into();
        self.perform(Call::new("shared recv_one", from.with()), |call| {
            let (values, status) = self.receive(call, Signature::of::<T>(), from)?;
            let &[value] = &values[..] else {
                let what = "the message";
                return Err(ErrorKind::LengthMismatch { what, needed: 1, got: values.len() }.into());
            };
            Ok((value, status))
        })
    }

    /// As [`Comm::send_obj`], from any thread.
    ///
    /// # Errors
    /// As [`Comm::send_obj`].
    #[track_caller]
    pub fn send_obj<S: Serialize + ?Sized>(&self, value: &S, to: impl Into<Dest>) -> Result<()> {
        let to = to.into();
        self.perform(Call::new("shared send_obj", to.with()), |call| {
            self.send_bytes(call, Signature::OBJECT, &pack(value)?, to)
        })
    }

    /// As [`Comm::recv_obj`], on any thread.
    ///
    /// # Errors
    /// As [`Comm::recv_obj`].
    #[track_caller]
    pub fn recv_obj<D: DeserializeOwned>(&self, from: impl Into<Src>) -> Result<(D, Status)> {
        let from = from.into();
        self.perform(Call::new("shared recv_obj", from.with()), |call| {
            let (bytes, status) = self.receive::<u8>(call, Signature::OBJECT, from)?;
            Ok((unpack(&bytes, status.source)?, Status { count: 1, ..status }))
        })
    }

    fn perform<R>(&self, call: Call, body: impl FnOnce(Call) -> Result<R, Fault>) -> Result<R> {
        body(call).map_err(|fault| Error::new(fault, self.rank, call))
    }

    fn send_bytes(
        &self,
        call: Call,
        signature: Signature,
        bytes: &[u8],
        to: Dest,
    ) -> Result<(), Fault> {
        if to.is_null() {
            return Ok(());
        }
        self.engine.send(call, &self.space.target(to, signature)?, bytes)
    }

    fn receive<T: Datum>(
        &self,
        call: Call,
        signature: Signature,
        from: Src,
    ) -> Result<(Vec<T>, Status), Fault> {
        let from = self.space.source(from, signature)?;
        let (buffer, received): (_, Received) = self.engine.recv(call, &from, landing::<T>)?;
        let buffer = buffer.into_any().downcast::<Landing<T>>().map_err(|_| ErrorKind::Closed)?;
        let status = status::<T>(&received);
        Ok((buffer.into_values(status.count)?, status))
    }
}

impl fmt::Debug for SharedComm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedComm(rank {} of {})", self.rank, self.space.size)
    }
}
