//! Values of any type that serde can turn into bytes: one message per value.
//!
//! The format is postcard's: compact, and the same on every machine.

use serde::{Serialize, de::DeserializeOwned};

use super::{Comm, Dest, Message, Src, Status};
use crate::{
    datum::Signature,
    error::{Call, ErrorKind, Result, With},
};

impl Comm {
    /// Sends one value of any serializable type.
    ///
    /// # Errors
    /// As [`Comm::send`]; [`ErrorKind::Object`] if the value cannot be serialized.
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(2, |world| {
    ///     if world.rank() == 0 {
    ///         world.send_obj(&("name", vec![Some(1.5), None]), 1)?;
    ///         return Ok(None);
    ///     }
    ///     let (value, _status) = world.recv_obj::<(String, Vec<Option<f64>>)>(0)?;
    ///     Ok(Some(value.0))
    /// });
    /// assert_eq!(got.unwrap()[1].as_deref(), Some("name"));
    /// ```
    #[track_caller]
    pub fn send_obj<S: Serialize + ?Sized>(&self, value: &S, to: impl Into<Dest>) -> Result<()> {
        let to = to.into();
        let fail = self.enter(Call::new("send_obj", to.with()));
        pack(value).and_then(|bytes| self.send_bytes(Signature::OBJECT, &bytes, to)).map_err(fail)
    }

    /// Receives one value that was sent with [`Comm::send_obj`].
    ///
    /// # Errors
    /// As [`Comm::recv`]; [`ErrorKind::Object`] if the bytes are no `D`; [`ErrorKind::InvalidArgument`] for the null
    /// rank, which has no value to give.
    #[track_caller]
    pub fn recv_obj<D: DeserializeOwned>(&self, from: impl Into<Src>) -> Result<(D, Status)> {
        let from = from.into();
        let fail = self.enter(Call::new("recv_obj", from.with()));
        let take = || {
            let from = self.source(from, Signature::OBJECT)?;
            let (ticket, received) = self.await_message(&from)?;
            let message = Message::new(self, ticket, received);
            let status = Status { count: 1, ..message.status() };
            Ok((unpack(&message.recv_object()?)?, status))
        };
        take().map_err(fail)
    }

    /// The root's value on every rank; `at_root` runs on the root only.
    ///
    /// # Collective
    /// All ranks, with the same root.
    ///
    /// # Errors
    /// [`ErrorKind::Object`] on the root if the value cannot be serialized.
    #[track_caller]
    pub fn bcast_obj<S: Serialize + DeserializeOwned>(
        &self,
        root: usize,
        at_root: impl FnOnce() -> S,
    ) -> Result<S> {
        let call = Call::new("bcast_obj", With::Root(root));
        let fail = self.enter(call);
        let mut kept = None;
        let mut packed = Ok(Vec::new());
        if self.rank == root {
            let value = at_root();
            packed = pack(&value);
            kept = Some(value);
        }
        let packed = packed.map_err(fail)?;
        let bytes = self.bcast_bytes(root, call, || packed).map_err(fail)?;
        match kept {
            Some(value) => Ok(value),
            None => unpack(&bytes).map_err(fail),
        }
    }
}

fn pack<S: Serialize + ?Sized>(value: &S) -> Result<Vec<u8>, ErrorKind> {
    postcard::to_stdvec(value).map_err(|error| failed::<S>("sent", &error))
}

fn unpack<D: DeserializeOwned>(bytes: &[u8]) -> Result<D, ErrorKind> {
    postcard::from_bytes(bytes).map_err(|error| failed::<D>("received", &error))
}

fn failed<T: ?Sized>(verb: &'static str, error: &postcard::Error) -> ErrorKind {
    let type_name = std::any::type_name::<T>();
    ErrorKind::Object { type_name, verb, reason: error.to_string() }
}
