//! Values of any type that serde can turn into bytes: one message per value.
//!
//! A message is the name of the type, which the receiver compares with its own, and the value
//! ([`tag`]): the same on every machine.

mod names;
mod read;
mod tag;
mod write;

use serde::{Serialize, de::DeserializeOwned};

use self::{names::name_of, tag::Failed};
use super::{
    Comm, Dest, Message, Ragged, Request, Src, Status, agreement::Subject, all, collective::rooted,
};
use crate::{
    checks::Checks,
    datum::{Memory, Outgoing, Signature},
    engine::{Label, Mode, Op, Source},
    error::{Call, ErrorKind, Fault, Result},
};

/// # Objects
///
/// Any type that serde knows.
impl Comm {
    /// Sends one value of any serializable type, which the receiver names: a `&str` is received as
    /// `String`, a slice as `Vec`, what a reference, `Box` or `Arc` holds as such.
    ///
    /// Everything that serde's derive can say of a type arrives as it was sent: fields and variants
    /// that are skipped, always or sometimes, flattened fields, enums without tags or with their
    /// tag inside. The limits: a field with `#[serde(skip)]` has its default on the receiver, as
    /// serde has it (collectives of objects give all ranks what was read, the root too); a type
    /// whose `Serialize` writes what its `Deserialize` does not read (other names, other forms) is
    /// an error on the receiver, and in collectives with [`Checks::Full`](crate::Checks) on the
    /// sender.
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
    /// As [`Comm::recv`]; [`ErrorKind::TypeMismatch`], at every level of checks, if a value of
    /// another type was sent; [`ErrorKind::Object`] if the bytes are no `D`;
    /// [`ErrorKind::InvalidArgument`] for the null rank, which has no value to give.
    #[track_caller]
    pub fn recv_obj<D: DeserializeOwned>(&self, from: impl Into<Src>) -> Result<(D, Status)> {
        let from = from.into();
        self.perform(Call::new("recv_obj", from.with()), || {
            let from = self.source(from, Signature::OBJECT)?;
            self.receive_object(&from)
        })
    }

    /// Starts to send one value; the request is done when its bytes are on their way. The value may
    /// change at once.
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

    /// Sends one value to one rank and receives one of another type, perhaps, from another (or the
    /// same) at once: never a deadlock between two ranks that exchange values of any size.
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
        self.sent(to.rank, to.tag, bytes.len());
        let memory = Memory::Owned(Box::new(Outgoing(bytes)));
        self.engine.isend(&to, Mode::Standard, memory).map(Some)
    }

    fn receive_object<D: DeserializeOwned>(&self, from: &Source) -> Result<(D, Status), Fault> {
        let (ticket, received) = self.await_message(from)?;
        let message = Message::new(self, ticket, received);
        let status = Status { count: 1, ..message.status() };
        Ok((unpack(&message.recv_object()?, status.source)?, status))
    }

    /// The root's value on every rank, as it is read from its bytes; `at_root` runs on the root
    /// only.
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
            let packed = if self.rank == root { self.pack(&at_root())? } else { Vec::new() };
            // The root too reads what it has written, so that all have the same.
            unpack(&self.bcast_values(root, label, || packed)?, root)
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
            let rows = self.gather_values(root, label, &self.pack(mine)?)?;
            rows.map(|rows| unpack_all(&rows)).transpose()
        })
    }

    /// To each rank its value of the root's; `at_root` runs on the root only and gives one value
    /// per rank.
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
            let rows = self.pack_all(&values)?;
            unpack(&self.scatter_values(root, label, || rows)?, root)
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
            unpack_all(&self.allgather_values(label, &self.pack(mine)?)?)
        })
    }

    /// To rank `r` the value `values[r]`; returns what each rank had for this one, in the order of
    /// ranks.
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
            unpack_all(&self.alltoall_values(label, &self.pack_all(values)?)?)
        })
    }

    /// The reduction of all ranks' values on the root; `None` elsewhere. `op` is associative; its
    /// left operand belongs to lower ranks.
    ///
    /// # Collective
    /// All ranks, with the same root and operator. ⌈log₂ p⌉ + 1 messages deep; every rank combines
    /// on the way.
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
                (Some(reduced), _) => steps.send(root, &self.pack(&reduced)?).map(|()| None),
                (None, _) if self.rank == root => unpack(&steps.recv::<u8>(0)?, 0).map(Some),
                (None, _) => Ok(None),
            }
        })
    }

    /// The reduction of all ranks' values on every rank. `op` is associative; its left operand
    /// belongs to lower ranks.
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
            let packed = reduced.map_or(Ok(Vec::new()), |reduced| self.pack(&reduced))?;
            unpack(&self.bcast_values(0, label, || packed)?, 0)
        })
    }

    /// The reduction of the values of ranks 0 up to and including this one. `op` is associative;
    /// its left operand belongs to lower ranks.
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
            let packed = self.pack(&mine)?;
            self.prefix(label, packed, Some(mine), op)?.ok_or_else(|| ErrorKind::Closed.into())
        })
    }

    /// The reduction of the values of the ranks before this one; `None` on rank 0. `op` is
    /// associative; its left operand belongs to lower ranks.
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
            self.prefix(label, self.pack(&mine)?, None, op)
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
        // `block` grows to cover aligned blocks of ranks; the lower ones among them make up the
        // prefix.
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
                let lower = unpack(&theirs, peer)?;
                prefix = Some(match prefix {
                    Some(upper) => op(lower, upper),
                    None => lower,
                });
            }
            block = self.pack(&op(unpack(lower, peer)?, unpack(upper, peer)?))?;
        }
        Ok(prefix)
    }

    /// A value to be read by other ranks. At the highest level of checks it is read back, so that a
    /// type that cannot be is found on the rank that sends it.
    fn pack<S: Serialize + DeserializeOwned>(&self, value: &S) -> Result<Vec<u8>, Fault> {
        let bytes = pack(value)?;
        if self.checks() == Checks::Full {
            let (_, written) = split(&bytes).unwrap_or_default();
            read::read::<S>(written).map(drop).map_err(|Failed(why)| {
                failed::<S>("sent", Failed(format!("it cannot be read back: {why}")))
            })?;
        }
        Ok(bytes)
    }

    fn pack_all<S: Serialize + DeserializeOwned>(&self, values: &[S]) -> Result<Ragged<u8>, Fault> {
        let rows = values.iter().map(|value| self.pack(value)).collect::<Result<Vec<_>, _>>()?;
        Ok(Ragged::from_rows(rows))
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
                return steps.send(self.rank - reach, &self.pack(&value)?).map(|()| None);
            }
            let from = self.rank + reach;
            if from < self.size {
                value = op(value, unpack(&steps.recv::<u8>(from)?, from)?);
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
        let from = self.source();
        self.comm().perform(self.call("recv_obj"), || unpack(&self.recv_object()?, from))
    }
}

/// What other ranks have written, a row of each.
fn unpack_all<D: DeserializeOwned>(rows: &Ragged<u8>) -> Result<Vec<D>, Fault> {
    rows.iter().enumerate().map(|(rank, row)| unpack(row, rank)).collect()
}

/// The name of the value's type, and the value.
pub(crate) fn pack<S: Serialize + ?Sized>(value: &S) -> Result<Vec<u8>, Fault> {
    let name = name_of::<S>();
    let mut bytes = (name.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(name.as_bytes());
    write::write(value, &mut bytes).map_err(|why| failed::<S>("sent", why))?;
    Ok(bytes)
}

/// The value that rank `peer` has written, all of it.
pub(crate) fn unpack<D: DeserializeOwned>(bytes: &[u8], peer: usize) -> Result<D, Fault> {
    let (name, value) = split(bytes).ok_or_else(|| {
        failed::<D>("received", Failed::of("the bytes end within the name of the type"))
    })?;
    let expected = name_of::<D>();
    if *name != *expected.as_bytes() {
        let (expected, got) = (expected.to_string(), String::from_utf8_lossy(name).into_owned());
        return Err(ErrorKind::TypeMismatch { peer, expected, got }.into());
    }
    read::read(value).map_err(|why| failed::<D>("received", why))
}

/// The name of the type, and the value.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, behind) = bytes.split_first_chunk()?;
    behind.split_at_checked(u32::from_le_bytes(*length) as usize)
}

fn failed<T: ?Sized>(verb: &'static str, Failed(reason): Failed) -> Fault {
    ErrorKind::Object { type_name: std::any::type_name::<T>(), verb, reason }.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_may_be_left_over_or_missing() {
        type Value = (u8, Vec<Option<f64>>, String);
        let bytes = pack(&(1_u8, vec![Some(2.5), None], "text")).unwrap();
        assert_eq!(unpack::<Value>(&bytes, 3).unwrap().2, "text");
        let longer = [&bytes[..], &[0]].concat();
        let error = unpack::<Value>(&longer, 3).unwrap_err().to_string();
        assert!(error.contains("1 bytes are left over"), "{error}");
        for end in 0..bytes.len() {
            unpack::<Value>(&bytes[..end], 3).unwrap_err();
        }
    }

    #[test]
    fn any_bytes_at_all_are_a_value_or_an_error() {
        let bytes = pack(&vec![("name".to_owned(), Some([1_i64, -1]))]).unwrap();
        let whole = bytes.len();
        for at in 0..whole {
            for change in [1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                let _ = unpack::<Vec<(String, Option<[i64; 2]>)>>(&bytes, 0);
            }
        }
    }

    #[test]
    fn names_of_fields_travel_once() {
        #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug, Clone)]
        struct Particle {
            position: u8,
            velocity: u8,
        }
        let swarm = vec![Particle { position: 1, velocity: 2 }; 100];
        let bytes = pack(&swarm).unwrap();
        let names = bytes.windows(8).filter(|bytes| bytes == b"velocity").count();
        assert_eq!(names, 1);
        assert_eq!(unpack::<Vec<Particle>>(&bytes, 0).unwrap(), swarm);
    }
}
