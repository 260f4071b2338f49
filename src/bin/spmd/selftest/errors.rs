//! Wrong calls: refused for the right reason, with nobody left waiting and the communicator as good
//! as before.

use spmd::{Checks, ErrorKind, Ragged, Result, op::Sum};

use super::{Case, Ground, ground::values};

pub(super) const CASES: &[Case] = &[
    ("values of another type are refused", wrong_type),
    ("bytes that are no whole number of elements are refused", wrong_size),
    ("a message longer than the buffer is refused", too_long),
    ("ranks that do not exist are refused", wrong_rank),
    ("tags that are too large are refused", wrong_tag),
    ("rows that are not one per rank are refused", wrong_rows),
    ("bytes that are no value are refused", wrong_bits),
    ("ranks that disagree about a collective are told", disagreement),
];

fn mismatch(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::TypeMismatch { .. })
}

fn truncated(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::Truncated { .. })
}

fn no_such_rank(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidRank { .. })
}

/// Messages carry their types at the highest level of checks.
fn wrong_type(ground: &Ground<'_>) -> Result<()> {
    if ground.checks() < Checks::Full {
        return Ok(());
    }
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [1, 3000] {
        let send = || ground.isend(values(ground.rank(), count), (to, 1));
        let sending = send()?;
        ground.refused("recv", ground.recv::<f64>((from, 1)), mismatch);
        sending.wait()?;
        let sending = send()?;
        ground.refused("recv_into", ground.recv_into(&mut vec![0_i64; count], (from, 1)), mismatch);
        sending.wait()?;
        let receiving = ground.irecv(vec![0_u32; 2 * count], (from, 1))?;
        let sending = send()?;
        ground.refused("irecv", receiving.wait(), mismatch);
        sending.wait()?;
        let sending = send()?;
        ground.refused("probe", ground.probe((from, 1))?.recv::<[u64; 1]>(), mismatch);
        sending.wait()?;
        ground.still_works()?;
    }
    Ok(())
}

/// Found at every level: the bytes are no whole number of elements.
fn wrong_size(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [1, 7, 4001] {
        let send = || ground.isend(vec![1_u8; count], (to, 1));
        let sending = send()?;
        ground.refused("recv", ground.recv::<u32>((from, 1)), mismatch);
        sending.wait()?;
        let sending = send()?;
        ground.refused("recv_into", ground.recv_into(&mut vec![0_u64; count], (from, 1)), mismatch);
        sending.wait()?;
        let receiving = ground.irecv(vec![0_u32; count], (from, 1))?;
        let sending = send()?;
        ground.refused("irecv", receiving.wait(), mismatch);
        sending.wait()?;
        ground.still_works()?;
    }
    Ok(())
}

fn too_long(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [2, 3000] {
        let send = || ground.isend(values(ground.rank(), count), (to, 1));
        let short = || vec![0_u64; count - 1];
        let sending = send()?;
        ground.refused("recv_into", ground.recv_into(&mut short(), (from, 1)), truncated);
        sending.wait()?;
        let receiving = ground.irecv(short(), (from, 1))?;
        let sending = send()?;
        ground.refused("irecv", receiving.wait(), truncated);
        sending.wait()?;
        let sending = send()?;
        let message = ground.probe((from, 1))?;
        ground.refused("probe", message.recv_into(&mut short()), truncated);
        sending.wait()?;
        ground.still_works()?;
    }
    let mut short = [0_u64; 1];
    let got = ground.sendrecv(&values(0, 2), to, &mut short, from);
    ground.refused("sendrecv", got, truncated);
    ground.still_works()
}

fn wrong_rank(ground: &Ground<'_>) -> Result<()> {
    let nobody = ground.size();
    let mut buffer = [0_u8];
    ground.refused("send", ground.send(&[1_u8], nobody), no_such_rank);
    ground.refused("recv", ground.recv::<u8>(nobody), no_such_rank);
    ground.refused("recv_into", ground.recv_into(&mut buffer, nobody), no_such_rank);
    ground.refused("sendrecv to", ground.sendrecv(&[1], nobody, &mut buffer, None), no_such_rank);
    ground.refused("sendrecv from", ground.sendrecv(&[1], None, &mut buffer, nobody), no_such_rank);
    ground.refused("isend", ground.isend(vec![1_u8], nobody), no_such_rank);
    ground.refused("irecv", ground.irecv(vec![1_u8], nobody), no_such_rank);
    ground.refused("probe", ground.probe(nobody), no_such_rank);
    ground.refused("iprobe", ground.iprobe(nobody), no_such_rank);
    ground.refused("send_obj", ground.send_obj("text", nobody), no_such_rank);
    ground.refused("recv_obj", ground.recv_obj::<String>(nobody), no_such_rank);
    let in_vain = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidArgument { .. });
    ground.refused("recv_obj from nobody", ground.recv_obj::<String>(None), in_vain);
    ground.refused("probe of nobody", ground.probe(None), in_vain);
    ground.refused("iprobe of nobody", ground.iprobe(None), in_vain);
    ground.refused("bcast", ground.bcast(nobody, || vec![1_u8]), no_such_rank);
    ground.refused("bcast_into", ground.bcast_into(nobody, &mut buffer), no_such_rank);
    ground.refused("bcast_obj", ground.bcast_obj(nobody, || 1_u8), no_such_rank);
    ground.refused("gather", ground.gather(nobody, &[1_u8]), no_such_rank);
    let row = || Ragged::from_rows([[1_u8]]);
    ground.refused("scatter", ground.scatter(nobody, row), no_such_rank);
    ground.refused("reduce", ground.reduce(nobody, &[1_u8], Sum), no_such_rank);
    let mut one = [0_u8];
    ground.refused("gather_into", ground.gather_into(nobody, &[1], &mut one), no_such_rank);
    ground.refused("scatter_into", ground.scatter_into(nobody, &[1], &mut one), no_such_rank);
    ground.refused("reduce_into", ground.reduce_into(nobody, &[1], &mut one, Sum), no_such_rank);
    ground.refused("gather_known", ground.gather_known(nobody, &[1_u8], &[1]), no_such_rank);
    ground.refused("scatter_known", ground.scatter_known(nobody, 1, row), no_such_rank);
    ground.refused("gather_obj", ground.gather_obj(nobody, &1_u8), no_such_rank);
    ground.refused("scatter_obj", ground.scatter_obj(nobody, || vec![1_u8]), no_such_rank);
    ground.refused("reduce_obj", ground.reduce_obj(nobody, 1, |a, b| a + b), no_such_rank);
    ground.same("allreduce afterwards", &ground.allreduce(&[1_usize], Sum)?, &[nobody]);
    ground.still_works()
}

fn wrong_tag(ground: &Ground<'_>) -> Result<()> {
    let too_large = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidTag { .. });
    let Some(tag) = ground.max_tag().checked_add(1) else { return Ok(()) };
    let (to, from) = (ground.after(1), ground.before(1));
    ground.refused("send", ground.send(&[1_u8], (to, tag)), too_large);
    ground.refused("recv", ground.recv::<u8>((from, tag)), too_large);
    ground.refused("isend", ground.isend(vec![1_u8], (to, tag)), too_large);
    ground.refused("irecv", ground.irecv(vec![1_u8], (from, tag)), too_large);
    ground.refused("probe", ground.probe((from, tag)), too_large);
    ground.refused("send_obj", ground.send_obj("text", (to, tag)), too_large);
    let got = ground.sendrecv(&[1_u8], (to, tag), &mut [0], (from, 0));
    ground.refused("sendrecv", got, too_large);
    ground.still_works()
}

fn wrong_rows(ground: &Ground<'_>) -> Result<()> {
    let wrong = |kind: &ErrorKind| matches!(kind, ErrorKind::LengthMismatch { .. });
    let rows = Ragged::from_rows(vec![[1_u8]; ground.size() + 1]);
    ground.refused("alltoall", ground.alltoall(&rows), wrong);
    let none = Ragged::<u8>::from_rows(Vec::<Vec<u8>>::new());
    ground.refused("alltoall of no rows", ground.alltoall(&none), wrong);
    // With several ranks the others would wait for the root's rows: there, this error ends the job.
    if ground.size() == 1 {
        ground.refused("scatter", ground.scatter(0, || rows), wrong);
    }
    ground.same("allreduce afterwards", &ground.allreduce(&[1_usize], Sum)?, &[ground.size()]);
    Ok(())
}

fn wrong_bits(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let invalid = |kind: &ErrorKind| matches!(kind, ErrorKind::InvalidValue { index: 2, .. });
    // No safe program has such a `bool`: bytes are sent in its place, where nobody compares the
    // types of messages.
    if ground.engine() == "local" || ground.checks() == Checks::Full {
        return Ok(());
    }
    let send = || ground.send(&[1_u8, 0, 7, 1], (to, 1));
    let outcomes = [send(), send(), send(), send()];
    ground.holds("the bytes are sent", outcomes.iter().all(std::result::Result::is_ok));
    ground.refused("recv", ground.recv::<bool>((from, 1)), invalid);
    let mut buffer = [true; 4];
    ground.refused("recv_into", ground.recv_into(&mut buffer, (from, 1)), invalid);
    ground.refused("irecv", ground.irecv(vec![true; 9], (from, 1))?.wait(), invalid);
    ground.refused("probe", ground.probe((from, 1))?.recv::<bool>(), invalid);
    ground.still_works()
}

/// Pairs of ranks disagree, each pair on a communicator of its own, in ways after which both have
/// made as many calls.
fn disagreement(ground: &Ground<'_>) -> Result<()> {
    let told = |kind: &ErrorKind| matches!(kind, ErrorKind::CollectiveMismatch { .. });
    let pair = ground.split(Some((ground.rank() / 2) as u32), 0)?;
    let Some(pair) = pair.filter(|pair| pair.size() == 2 && pair.engine() == "local") else {
        return Ok(());
    };
    let first = pair.rank() == 0;
    let got = if first { pair.barrier() } else { pair.allreduce(&[1_u8], Sum).map(drop) };
    ground.refused("barrier against allreduce", got, told);
    let lengths = pair.allreduce(&vec![1_u8; 1 + pair.rank()], Sum);
    ground.refused("allreduce of different lengths", lengths, told);
    let got = if first {
        pair.allreduce(&[1_u8], Sum).map(drop)
    } else {
        pair.allreduce(&[1_i8], Sum).map(drop)
    };
    ground.refused("allreduce of different types", got, told);
    let got = if first {
        pair.bcast(0, || vec![1_u8]).map(drop)
    } else {
        pair.bcast::<f64>(0, Vec::new).map(drop)
    };
    // The root is told if the other one came first.
    if !first || got.is_err() {
        ground.refused("bcast of different types", got, told);
    }
    let lengths = pair.bcast_into(0, &mut vec![0_u8; 1 + pair.rank()]);
    if !first || lengths.is_err() {
        ground.refused("bcast of different lengths", lengths, told);
    }
    ground.same("allreduce afterwards", &pair.allreduce(&[1_usize], Sum)?, &[2]);
    Ok(())
}
