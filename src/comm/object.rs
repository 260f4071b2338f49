//! Values of any type that serde can turn into bytes: one message per value.
//!
//! The format is postcard's: compact, and the same on every machine.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Comm, Dest, Message, Ragged, Request, Src, Status, agreement::Subject, all, collective::rooted,
};
use crate::{
    datum::{Memory, Outgoing, Signature},
    engine::{Label, Mode, Op, Source},
    error::{Call, ErrorKind, Fault, Result},
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
        self.perform(Call::new("send_obj", to.with()), || {
            self.send_bytes(Signature::OBJECT, &pack(value)?, to)
        })
    }

    /// Receives one value that was sent with [`Comm::send_obj`].
    ///
    /// # Errors
    /// As [`Comm::recv`]; [`ErrorKind::Object`] if the bytes are no `D`; [`ErrorKind::InvalidArgument`] for the null
    /// rank, which has no value to give.
    #[track_caller]
    pub fn recv_obj<D: DeserializeOwned>(&self, from: impl Into<Src>) -> Result<(D, Status)> {
        let from = from.into();
        self.perform(Call::new("recv_obj", from.with()), || {
            let from = self.source(from, Signature::OBJECT)?;
            self.receive_object(&from)
        })
    }

    /// Starts to send one value; the request is done when its bytes are on their way. The value may change at once.
    ///
    /// To receive without waiting: [`Comm::iprobe`], then [`Message::recv_obj`].
    ///
    /// # Errors
    /// As [`Comm::send_obj`].
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(2, |world| {
    ///     let other = 1 - world.rank();
    ///     let sending = world.isend_obj(&format!("from {}", world.rank()), other)?;
    ///     let message = loop {
    ///         if let Some(message) = world.iprobe(other)? {
    ///             break message;
    ///         }
    ///         // ... compute meanwhile ...
    ///     };
    ///     let text: String = message.recv_obj()?;
    ///     sending.wait()?;
    ///     Ok(text)
    /// });
    /// assert_eq!(got.unwrap(), ["from 1", "from 0"]);
    /// ```
    #[track_caller]
    pub fn isend_obj<S: Serialize + ?Sized>(
        &self,
        value: &S,
        to: impl Into<Dest>,
    ) -> Result<Request<'_, ()>> {
        let to = to.into();
        let call = Call::new("isend_obj", to.with());
        self.perform(call, || {
            Ok(match self.start_object(value, to)? {
                Some(op) => Request::new(self, call, op, |_| Ok(())),
                None => Request::ready(self, call, ()),
            })
        })
    }

    /// Sends one value to one rank and receives one of another type, perhaps, from another (or the same) at once: never a
    /// deadlock between two ranks that exchange values of any size.
    ///
    /// # Errors
    /// As [`Comm::send_obj`] and [`Comm::recv_obj`].
    ///
    /// # Examples
    /// ```
    /// let left = spmd::local(3, |world| {
    ///     let (rank, size) = (world.rank(), world.size());
    ///     let name = format!("rank {rank}");
    ///     let (left, _) = world.sendrecv_obj::<_, String>(&name, (rank + 1) % size, (rank + size - 1) % size)?;
    ///     Ok(left)
    /// });
    /// assert_eq!(left.unwrap(), ["rank 2", "rank 0", "rank 1"]);
    /// ```
    #[track_caller]
    pub fn sendrecv_obj<S: Serialize + ?Sized, D: DeserializeOwned>(
        &self,
        value: &S,
        to: impl Into<Dest>,
        from: impl Into<Src>,
    ) -> Result<(D, Status)> {
        let (to, from) = (to.into(), from.into());
        self.perform(Call::new("sendrecv_obj", from.with()), || {
            let from = self.source(from, Signature::OBJECT)?;
            let sending = self.start_object(value, to)?;
            let received = self.receive_object(&from);
            if let Some(op) = sending {
                self.engine.wait(op)?;
            }
            received
        })
    }

    /// Starts to send a value, unless to nobody.
    fn start_object<S: Serialize + ?Sized>(
        &self,
        value: &S,
        to: Dest,
    ) -> Result<Option<Op>, Fault> {
        let bytes = pack(value)?;
        if to.is_null() {
            return Ok(None);
        }
        let to = self.target(to, Signature::OBJECT)?;
        self.sent(to.rank, bytes.len());
        let memory = Memory::Owned(Box::new(Outgoing(bytes)));
        self.engine.isend(&to, Mode::Standard, memory).map(Some)
    }

    fn receive_object<D: DeserializeOwned>(&self, from: &Source) -> Result<(D, Status), Fault> {
        let (ticket, received) = self.await_message(from)?;
        let message = Message::new(self, ticket, received);
        let status = Status { count: 1, ..message.status() };
        Ok((unpack(&message.recv_object()?)?, status))
    }

    /// The root's value on every rank; `at_root` runs on the root only.
    ///
    /// # Collective
    /// All ranks, with the same root. As [`Comm::bcast`] of the serialized value.
    ///
    /// # Errors
    /// [`ErrorKind::Object`] on the root if the value cannot be serialized.
    #[track_caller]
    pub fn bcast_obj<S: Serialize + DeserializeOwned>(
        &self,
        root: usize,
        at_root: impl FnOnce() -> S,
    ) -> Result<S> {
        self.together(rooted("bcast_obj", root), Subject::objects(), |label| {
            let kept = (self.rank == root).then(at_root);
            let packed = kept.as_ref().map_or(Ok(Vec::new()), pack)?;
            let bytes = self.bcast_values(root, label, || packed)?;
            kept.map_or_else(|| unpack(&bytes), Ok)
        })
    }

    /// All ranks' values on the root, in the order of ranks; `None` elsewhere.
    ///
    /// # Collective
    /// All ranks, with the same root. As [`Comm::gather`] of the serialized values.
    ///
    /// # Errors
    /// [`ErrorKind::Object`] where a value cannot be serialized or read back.
    ///
    /// # Examples
    /// ```
    /// let names = spmd::local(2, |world| Ok(world.gather_obj(0, &format!("node{}", world.rank()))?));
    /// assert_eq!(names.unwrap()[0].as_deref().unwrap(), ["node0", "node1"]);
    /// ```
    #[track_caller]
    pub fn gather_obj<S: Serialize + DeserializeOwned>(
        &self,
        root: usize,
        mine: &S,
    ) -> Result<Option<Vec<S>>> {
        self.together(rooted("gather_obj", root), Subject::objects(), |label| {
            let rows = self.gather_values(root, label, &pack(mine)?)?;
            rows.map(|rows| unpack_all(&rows)).transpose()
        })
    }

    /// To each rank its value of the root's; `at_root` runs on the root only and gives one value per rank.
    ///
    /// # Collective
    /// All ranks, with the same root. As [`Comm::scatter`] of the serialized values.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] on the root if there is not one value per rank; [`ErrorKind::Object`].
    ///
    /// # Examples
    /// ```
    /// let jobs = || vec!["read".to_owned(), "write".to_owned()];
    /// let mine = spmd::local(2, |world| Ok(world.scatter_obj(0, jobs)?));
    /// assert_eq!(mine.unwrap(), ["read", "write"]);
    /// ```
    #[track_caller]
    pub fn scatter_obj<S: Serialize + DeserializeOwned>(
        &self,
        root: usize,
        at_root: impl FnOnce() -> Vec<S>,
    ) -> Result<S> {
        self.together(rooted("scatter_obj", root), Subject::objects(), |label| {
            let values = if self.rank == root { at_root() } else { Vec::new() };
            let rows = pack_all(&values)?;
            unpack(&self.scatter_values(root, label, || rows)?)
        })
    }

    /// All ranks' values on every rank, in the order of ranks.
    ///
    /// # Collective
    /// As [`Comm::allgather`] of the serialized values.
    ///
    /// # Errors
    /// [`ErrorKind::Object`] where a value cannot be serialized or read back.
    ///
    /// # Examples
    /// ```
    /// let all = spmd::local(2, |world| Ok(world.allgather_obj(&(world.rank(), "up".to_owned()))?));
    /// assert_eq!(all.unwrap()[1], [(0, "up".to_owned()), (1, "up".to_owned())]);
    /// ```
    #[track_caller]
    pub fn allgather_obj<S: Serialize + DeserializeOwned>(&self, mine: &S) -> Result<Vec<S>> {
        self.together(all("allgather_obj"), Subject::objects(), |label| {
            unpack_all(&self.allgather_values(label, &pack(mine)?)?)
        })
    }

    /// To rank `r` the value `values[r]`; returns what each rank had for this one, in the order of ranks.
    ///
    /// # Collective
    /// As [`Comm::alltoall`] of the serialized values.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if there is not one value per rank; [`ErrorKind::Object`].
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(2, |world| {
    ///     let letters = [0, 1].map(|to| format!("from {} to {to}", world.rank()));
    ///     Ok(world.alltoall_obj(&letters)?)
    /// });
    /// assert_eq!(got.unwrap()[1], ["from 0 to 1", "from 1 to 1"]);
    /// ```
    #[track_caller]
    pub fn alltoall_obj<S: Serialize + DeserializeOwned>(&self, values: &[S]) -> Result<Vec<S>> {
        self.together(all("alltoall_obj"), Subject::objects(), |label| {
            unpack_all(&self.alltoall_values(label, &pack_all(values)?)?)
        })
    }

    /// The reduction of all ranks' values on the root; `None` elsewhere. `op` is associative; its left operand belongs to
    /// lower ranks.
    ///
    /// # Collective
    /// All ranks, with the same root and operator. ⌈log₂ p⌉ + 1 messages deep; every rank combines on the way.
    ///
    /// # Errors
    /// [`ErrorKind::Object`] where a value cannot be serialized or read back.
    ///
    /// # Examples
    /// ```
    /// use std::collections::BTreeSet;
    /// let all = spmd::local(3, |world| {
    ///     let mine = BTreeSet::from([world.rank() / 2]);
    ///     Ok(world.reduce_obj(0, mine, |left, right| &left | &right)?)
    /// });
    /// assert_eq!(all.unwrap()[0], Some(BTreeSet::from([0, 1])));
    /// ```
    #[track_caller]
    pub fn reduce_obj<S: Serialize + DeserializeOwned>(
        &self,
        root: usize,
        mine: S,
        op: impl Fn(S, S) -> S,
    ) -> Result<Option<S>> {
        self.together(rooted("reduce_obj", root), Subject::objects(), |label| {
            self.check_rank(root)?;
            let reduced = self.reduce_to_first(label, mine, op)?;
            let steps = self.steps(label);
            match (reduced, root) {
                (reduced, 0) => Ok(reduced),
                (Some(reduced), _) => steps.send(root, &pack(&reduced)?).map(|()| None),
                (None, _) if self.rank == root => unpack(&steps.recv::<u8>(0)?).map(Some),
                (None, _) => Ok(None),
            }
        })
    }

    /// The reduction of all ranks' values on every rank. `op` is associative; its left operand belongs to lower ranks.
    ///
    /// # Collective
    /// All ranks, with the same operator. As [`Comm::reduce_obj`], then [`Comm::bcast_obj`].
    ///
    /// # Errors
    /// [`ErrorKind::Object`] where a value cannot be serialized or read back.
    ///
    /// # Examples
    /// ```
    /// let words = spmd::local(3, |world| {
    ///     let mine = ["to", "be", "or"][world.rank()].to_owned();
    ///     Ok(world.allreduce_obj(mine, |left, right| left + " " + &right)?)
    /// });
    /// assert_eq!(words.unwrap()[2], "to be or");
    /// ```
    #[track_caller]
    pub fn allreduce_obj<S: Serialize + DeserializeOwned>(
        &self,
        mine: S,
        op: impl Fn(S, S) -> S,
    ) -> Result<S> {
        self.together(all("allreduce_obj"), Subject::objects(), |label| {
            let reduced = self.reduce_to_first(label, mine, op)?;
            let packed = reduced.as_ref().map_or(Ok(Vec::new()), pack)?;
            let bytes = self.bcast_values(0, label, || packed)?;
            reduced.map_or_else(|| unpack(&bytes), Ok)
        })
    }

    /// The reduction of the values of ranks 0 up to and including this one. `op` is associative; its left operand belongs
    /// to lower ranks.
    ///
    /// # Collective
    /// All ranks, with the same operator. ⌈log₂ p⌉ exchanges.
    ///
    /// # Errors
    /// [`ErrorKind::Object`] where a value cannot be serialized or read back.
    ///
    /// # Examples
    /// ```
    /// let paths = spmd::local(3, |world| {
    ///     let mine = ["usr", "share", "doc"][world.rank()].to_owned();
    ///     Ok(world.scan_obj(mine, |left, right| left + "/" + &right)?)
    /// });
    /// assert_eq!(paths.unwrap(), ["usr", "usr/share", "usr/share/doc"]);
    /// ```
    #[track_caller]
    pub fn scan_obj<S: Serialize + DeserializeOwned>(
        &self,
        mine: S,
        op: impl Fn(S, S) -> S,
    ) -> Result<S> {
        self.together(all("scan_obj"), Subject::objects(), |label| {
            let packed = pack(&mine)?;
            self.prefix(label, packed, Some(mine), op)?.ok_or_else(|| ErrorKind::Closed.into())
        })
    }

    /// The reduction of the values of the ranks before this one; `None` on rank 0. `op` is associative; its left operand
    /// belongs to lower ranks.
    ///
    /// # Collective
    /// As [`Comm::scan_obj`].
    ///
    /// # Errors
    /// [`ErrorKind::Object`] where a value cannot be serialized or read back.
    ///
    /// # Examples
    /// ```
    /// let before = spmd::local(3, |world| {
    ///     let mine = ["a", "b", "c"][world.rank()].to_owned();
    ///     Ok(world.exscan_obj(mine, |left, right| left + &right)?)
    /// });
    /// assert_eq!(before.unwrap(), [None, Some("a".to_owned()), Some("ab".to_owned())]);
    /// ```
    #[track_caller]
    pub fn exscan_obj<S: Serialize + DeserializeOwned>(
        &self,
        mine: S,
        op: impl Fn(S, S) -> S,
    ) -> Result<Option<S>> {
        self.together(all("exscan_obj"), Subject::objects(), |label| {
            self.prefix(label, pack(&mine)?, None, op)
        })
    }

    /// Puts the values of all lower ranks before `prefix`; `block` is this rank's own.
    fn prefix<S: Serialize + DeserializeOwned>(
        &self,
        label: &Label,
        mut block: Vec<u8>,
        mut prefix: Option<S>,
        op: impl Fn(S, S) -> S,
    ) -> Result<Option<S>, Fault> {
        let steps = self.steps(label);
        // `block` grows to cover aligned blocks of ranks; the lower ones among them make up the prefix.
        let mut distance = 1;
        while distance < self.size {
            let peer = self.rank ^ distance;
            distance *= 2;
            if peer >= self.size {
                continue;
            }
            let theirs = steps.exchange(peer, &block)?;
            let (lower, upper) =
                if peer < self.rank { (&theirs, &block) } else { (&block, &theirs) };
            if peer < self.rank {
                let lower = unpack(&theirs)?;
                prefix = Some(match prefix {
                    Some(upper) => op(lower, upper),
                    None => lower,
                });
            }
            block = pack(&op(unpack(lower)?, unpack(upper)?))?;
        }
        Ok(prefix)
    }

    /// Binomial tree to rank 0, which keeps the order of ranks.
    fn reduce_to_first<S: Serialize + DeserializeOwned>(
        &self,
        label: &Label,
        mine: S,
        op: impl Fn(S, S) -> S,
    ) -> Result<Option<S>, Fault> {
        let steps = self.steps(label);
        let mut value = mine;
        let mut reach = 1;
        while reach < self.size {
            if self.rank & reach != 0 {
                return steps.send(self.rank - reach, &pack(&value)?).map(|()| None);
            }
            let from = self.rank + reach;
            if from < self.size {
                value = op(value, unpack(&steps.recv::<u8>(from)?)?);
            }
            reach *= 2;
        }
        Ok(Some(value))
    }
}

impl Message<'_> {
    /// Receives it, if it was sent with [`Comm::send_obj`] or [`Comm::isend_obj`].
    ///
    /// # Errors
    /// As [`Comm::recv_obj`].
    #[track_caller]
    pub fn recv_obj<D: DeserializeOwned>(self) -> Result<D> {
        self.comm().perform(self.call("recv_obj"), || unpack(&self.recv_object()?))
    }
}

fn pack_all<S: Serialize>(values: &[S]) -> Result<Ragged<u8>, Fault> {
    let rows = values.iter().map(pack).collect::<Result<Vec<_>, _>>()?;
    Ok(Ragged::from_rows(rows))
}

fn unpack_all<D: DeserializeOwned>(rows: &Ragged<u8>) -> Result<Vec<D>, Fault> {
    rows.iter().map(unpack).collect()
}

pub(super) fn pack<S: Serialize + ?Sized>(value: &S) -> Result<Vec<u8>, Fault> {
    postcard::to_stdvec(value).map_err(|error| failed::<S>("sent", &error))
}

pub(super) fn unpack<D: DeserializeOwned>(bytes: &[u8]) -> Result<D, Fault> {
    postcard::from_bytes(bytes).map_err(|error| failed::<D>("received", &error))
}

fn failed<T: ?Sized>(verb: &'static str, error: &postcard::Error) -> Fault {
    let type_name = std::any::type_name::<T>();
    ErrorKind::Object { type_name, verb, reason: error.to_string() }.into()
}
