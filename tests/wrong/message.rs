//! Messages from rank to rank, in every way to send and to receive.

use spmd::{Comm, Failure};

use super::{
    Circle, Receiving, Sending,
    call::Started,
    judge::Got,
    liar::Liar,
    value::{Element, Stamp, bytes},
};

pub(super) fn send<T: Element>(
    comm: &Comm,
    how: Sending,
    values: Liar<T>,
    to: (usize, u32),
) -> Result<Started<'_>, Failure> {
    match how {
        Sending::Standard => comm.send(&values, to)?,
        Sending::Synchronous => comm.ssend(&values, to)?,
        Sending::Scoped => comm.scope(|scope| scope.isend(&values, to).map(drop))?,
        Sending::Exchange => {
            comm.sendrecv(&values, to, &mut Vec::<T>::new(), None)?;
        }
        Sending::Planned => {
            let mut plan = comm.plan();
            plan.send(values.into_values(), to)?;
            plan.start()?;
            return Ok(Started::Pending(Box::new(move || {
                Ok(plan.wait().map(|()| Got::Nothing)?)
            })));
        }
        Sending::Owned | Sending::OwnedSynchronous => {
            let values = values.into_values();
            let request = match how {
                Sending::Owned => comm.isend(values, to)?,
                _ => comm.issend(values, to)?,
            };
            return Ok(Started::Pending(Box::new(move || {
                Ok(request.wait().map(|_| Got::Nothing)?)
            })));
        }
    }
    Ok(Started::Over(Got::Nothing))
}

/// What came, and what stands in the buffer behind it.
fn came<T: Element>(source: usize, count: usize, buffer: &[T]) -> Got {
    if source == spmd::NULL_RANK {
        return Got::Nothing;
    }
    let (message, rest) = buffer.split_at(count.min(buffer.len()));
    // A status of more than there is room for is no message that anybody sent.
    let mut message = bytes(message);
    message.resize(count * size_of::<T>(), 0);
    Got::Message(source, message, bytes(rest))
}

pub(super) fn receive<T: Element>(
    comm: &Comm,
    how: Receiving,
    mut room: Liar<T>,
    from: impl Into<spmd::Src> + Copy,
) -> Result<Started<'_>, Failure> {
    let over = |got| Ok(Started::Over(got));
    let status = match how {
        Receiving::Any => {
            let (values, status) = comm.recv::<T>(from)?;
            return over(came(status.source, status.count, &values));
        }
        Receiving::One => {
            let (value, status) = comm.recv_one::<T>(from)?;
            return over(came(status.source, status.count, &[value]));
        }
        Receiving::Probed => {
            let message = comm.probe(from)?;
            let source = message.source();
            let values = message.recv::<T>()?;
            return over(came(source, values.len(), &values));
        }
        Receiving::Planned => {
            let mut plan = comm.plan();
            let buffer = plan.recv(room.into_values(), from)?;
            plan.start()?;
            return Ok(Started::Pending(Box::new(move || {
                plan.wait()?;
                let status = plan.status(buffer)?;
                Ok(came(status.source, status.count, plan.get(buffer)?))
            })));
        }
        Receiving::Owned => {
            let request = comm.irecv(room.into_values(), from)?;
            return Ok(Started::Pending(Box::new(move || {
                let (values, status) = request.wait()?;
                Ok(came(status.source, status.count, &values))
            })));
        }
        Receiving::Cancelled => {
            let request = comm.irecv(room.into_values(), from)?;
            let got = request.cancel()?;
            let see = |(values, status): (Vec<T>, spmd::Status)| {
                came(status.source, status.count, &values)
            };
            return over(got.map_or(Got::Nothing, see));
        }
        Receiving::Into => comm.recv_into(&mut room, from)?,
        Receiving::ProbedInto => comm.probe(from)?.recv_into(&mut room)?,
        Receiving::Exchange => comm.sendrecv(&Vec::<T>::new(), None, &mut room, from)?,
        Receiving::Scoped => comm.scope(|scope| Ok(scope.irecv(&mut room, from)?.wait()?.1))?,
    };
    over(came(status.source, status.count, &room.into_values()))
}

pub(super) fn go_round<T: Element>(
    circle: &Circle,
    comm: &Comm,
    stamp: Stamp,
) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let steps = circle.steps % size;
    let (to, from) = ((rank + steps) % size, (rank + size - steps) % size);
    let stamp = Stamp { to: comm.world_rank(to), ..stamp };
    let mut mine = Liar::<T>::new(stamp.values(circle.ty, circle.length), &circle.mine);
    let mut out = Liar::<T>::room(circle.room, &circle.out);
    let status = if circle.replace {
        let status = comm.sendrecv_replace(&mut mine, to, from)?;
        // What stands behind a shorter message is what was sent.
        let values = mine.into_values();
        let count = status.count.min(values.len());
        return Ok(came(status.source, status.count, &values[..count]));
    } else {
        comm.sendrecv(&mine, to, &mut out, from)?
    };
    Ok(came(status.source, status.count, &out.into_values()))
}
