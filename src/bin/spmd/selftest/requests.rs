//! Operations that go on while the program computes, also when their owner loses interest.

use std::time::Duration;

use spmd::{
    ANY, Request, Result, Status,
    request::{test_all, test_any, test_some, wait_all, wait_any, wait_some},
};

use super::{
    Case, Ground,
    ground::{COUNTS, MEBIBYTE, values},
};

pub(super) const CASES: &[Case] = &[
    ("isend and irecv, all sizes", isend_irecv),
    ("irecv before isend, a mebibyte", mebibyte),
    ("requests are tested until done", test),
    ("requests finish in any order", any_order),
    ("wait_all keeps the order of requests", all_at_once),
    ("irecv from any rank and tag", from_anybody),
    ("wait_any and wait_some give every request once", one_by_one),
    ("test_all, test_any and test_some do not wait", tests),
    ("wait_for gives the request back in time", patience),
    ("a cancelled irecv leaves its message to others", cancelled),
    ("a dropped isend goes on", dropped_send),
    ("a dropped irecv is withdrawn", dropped_recv),
    ("a forgotten isend goes on", forgotten_send),
    ("a forgotten irecv keeps its message", forgotten_recv),
];

fn isend_irecv(ground: &Ground<'_>) -> Result<()> {
    for steps in ground.ranks() {
        let (to, from) = (ground.after(steps), ground.before(steps));
        for count in COUNTS {
            let receiving = ground.irecv(vec![u64::MAX; count + 3], (from, 8))?;
            let sending = ground.isend(values(ground.rank(), count), (to, 8))?;
            let (got, status) = receiving.wait()?;
            ground.same("irecv", &got, &values(from, count));
            ground.equal("its status", status, Status { source: from, tag: 8, count });
            ground.same("isend gives back", &sending.wait()?, &values(ground.rank(), count));
        }
    }
    Ok(())
}

fn mebibyte(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let receiving = ground.irecv(vec![0_u64; MEBIBYTE], from)?;
    ground.barrier()?;
    let sending = ground.isend(values(ground.rank(), MEBIBYTE), to)?;
    ground.same("irecv", &receiving.wait()?.0, &values(from, MEBIBYTE));
    sending.wait()?;
    Ok(())
}

fn test(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let receiving = ground.irecv(vec![0_u64; 2000], (from, 12))?;
    let tested = receiving.test();
    ground.holds("nothing is received before anything is sent", tested.is_err());
    ground.barrier()?;
    let sending = ground.isend(values(ground.rank(), 2000), (to, 12))?;
    let (got, _) = tested.unwrap_or_else(until_done)?;
    ground.same("irecv", &got, &values(from, 2000));
    ground.same("isend gives back", &until_done(sending)?, &values(ground.rank(), 2000));
    Ok(())
}

fn until_done<R>(mut request: Request<'_, R>) -> Result<R> {
    loop {
        match request.test() {
            Ok(done) => return done,
            Err(unfinished) => request = unfinished,
        }
        std::thread::yield_now();
    }
}

fn any_order(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let count = |tag: u32| 700 * tag as usize;
    let receive = |tag| ground.irecv(vec![0; count(tag)], (from, tag));
    let mut receiving: Vec<_> = (0..4).map(receive).collect::<Result<_>>()?;
    let send = |tag| ground.isend(values(ground.rank(), count(tag)), (to, tag));
    let mut sending: Vec<_> = (0..4).rev().map(send).collect::<Result<_>>()?;
    for tag in [2, 0, 1, 0] {
        let (got, status) = receiving.remove(tag).wait()?;
        ground.same("irecv", &got, &values(from, count(status.tag)));
        let back = sending.remove(sending.len() / 2).wait()?;
        ground.same("isend gives back", &back, &values(ground.rank(), back.len()));
    }
    Ok(())
}

fn all_at_once(ground: &Ground<'_>) -> Result<()> {
    let receive = |rank| ground.irecv(vec![0; 1200], rank);
    let receiving: Vec<_> = ground.ranks().map(receive).collect::<Result<_>>()?;
    let send = |rank| ground.isend(values(ground.rank(), 200 + 500 * (rank % 3)), rank);
    let sending: Vec<_> = ground.ranks().map(send).collect::<Result<_>>()?;
    let mine = values_for(ground.rank(), ground.rank());
    for (rank, (got, status)) in wait_all(receiving)?.into_iter().enumerate() {
        ground.equal("the sender", status.source, rank);
        ground.same("irecv", &got, &values_for(rank, ground.rank()));
    }
    let back = wait_all(sending)?;
    ground.same("isend gives back", &back[ground.rank()], &mine);
    ground.holds("wait_all of nothing", wait_all::<()>([])?.is_empty());
    Ok(())
}

fn one_by_one(ground: &Ground<'_>) -> Result<()> {
    for some in [false, true] {
        let receive = |rank| ground.irecv(vec![0; 1200], (rank, 17));
        let mut receiving: Vec<_> = ground.ranks().map(receive).collect::<Result<_>>()?;
        let send = |rank| ground.isend(values(ground.rank(), 1100), (rank, 17));
        let mut sending: Vec<_> = ground.ranks().map(send).collect::<Result<_>>()?;
        let mut senders = Vec::new();
        let mut left: Vec<usize> = ground.ranks().collect();
        while !receiving.is_empty() {
            let done = if some {
                wait_some(&mut receiving)?
            } else {
                wait_any(&mut receiving)?.into_iter().collect()
            };
            ground.holds("somebody is done", !done.is_empty());
            for (place, (got, status)) in done.into_iter().rev() {
                ground.equal("the place of the sender", left.remove(place), status.source);
                ground.same("irecv", &got, &values(status.source, 1100));
                senders.push(status.source);
            }
        }
        senders.sort_unstable();
        ground.same("the senders", &senders, &ground.ranks().collect::<Vec<_>>());
        while let Some((_, sent)) = wait_any(&mut sending)? {
            ground.same("isend gives back", &sent, &values(ground.rank(), 1100));
        }
        ground.holds("nothing is left", wait_some(&mut sending)?.is_empty());
    }
    Ok(())
}

fn tests(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let receive = |tag| ground.irecv(vec![0; 900], (from, tag));
    let mut receiving: Vec<_> = (0..3).map(receive).collect::<Result<_>>()?;
    ground.holds("test_any of none", test_any(&mut receiving)?.is_none());
    ground.holds("test_some of none", test_some(&mut receiving)?.is_empty());
    let tested = test_all(receiving);
    ground.holds("test_all of none", tested.is_err());
    // Nobody sends before all have tested.
    ground.barrier()?;
    let send = |tag: u32| ground.isend(values(ground.rank() + tag as usize, 900), (to, tag));
    let sending: Vec<_> = (0..3).map(send).collect::<Result<_>>()?;
    let Err(mut receiving) = tested else { return Ok(()) };
    let all = loop {
        match test_all(receiving) {
            Ok(done) => break done?,
            Err(unfinished) => receiving = unfinished,
        }
        std::thread::yield_now();
    };
    for (tag, (got, status)) in all.iter().enumerate() {
        ground.equal("its tag", status.tag as usize, tag);
        ground.same("test_all", got, &values(from + tag, 900));
    }
    let mut left = sending;
    while !left.is_empty() {
        test_some(&mut left)?;
        std::thread::yield_now();
    }
    ground.holds("test_all of nothing", test_all::<()>(vec![]).is_ok_and(|done| done.is_ok()));
    Ok(())
}

fn patience(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let receiving = ground.irecv(vec![0; 900], (from, 18))?;
    let waited = receiving.wait_for(Duration::from_millis(1));
    ground.holds("nothing is received before anything is sent", waited.is_err());
    ground.barrier()?;
    let sending = ground.isend(values(ground.rank(), 900), (to, 18))?;
    let received = match waited {
        Err(receiving) => receiving.wait_for(Duration::MAX),
        done => done,
    };
    match received {
        Ok(received) => ground.same("irecv", &received?.0, &values(from, 900)),
        Err(_) => ground.note(|| "wait_for came back too early".to_owned()),
    }
    sending.wait()?;
    Ok(())
}

fn cancelled(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        let receiving = ground.irecv(vec![0_u64; count], (from, 19))?;
        ground.holds("nothing was received", receiving.cancel()?.is_none());
        // Nobody sends before all have cancelled.
        ground.barrier()?;
        let receiving = ground.irecv(vec![0_u64; count], (from, 20))?;
        let sending = ground.isend(values(ground.rank(), count), (to, 19))?;
        let second = ground.isend(values(ground.rank() + 1, count), (to, 20))?;
        ground.same("recv", &ground.recv::<u64>((from, 19))?.0, &values(from, count));
        sending.wait()?;
        second.wait()?;
        // This one has been received, or can still be: never both, never neither.
        let (got, status) = match receiving.cancel()? {
            Some(received) => received,
            None => ground.recv::<u64>((from, 20))?,
        };
        ground.same("the second message", &got, &values(from + 1, count));
        ground.equal("its status", status, Status { source: from, tag: 20, count });
    }
    ground.still_works()
}

fn values_for(from: usize, to: usize) -> Vec<u64> {
    values(from, 200 + 500 * (to % 3))
}

fn from_anybody(ground: &Ground<'_>) -> Result<()> {
    let from = ground.before(1);
    let receiving = ground.irecv(vec![0; 8], (ANY, ANY))?;
    // A collective in between must not be taken for a message.
    ground.barrier()?;
    ground.allgather(&[ground.rank()])?;
    ground.send(&[ground.rank()], (ground.after(1), 77))?;
    let (got, status) = receiving.wait()?;
    ground.same("irecv", &got, &[from]);
    ground.equal("its status", status, Status { source: from, tag: 77, count: 1 });
    Ok(())
}

fn dropped_send(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        drop(ground.isend(values(ground.rank(), count), (to, 13))?);
        ground.same("recv", &ground.recv::<u64>((from, 13))?.0, &values(from, count));
    }
    Ok(())
}

fn dropped_recv(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        drop(ground.irecv(vec![0_u64; count], (from, 14))?);
        // Nobody sends before all have withdrawn.
        ground.barrier()?;
        let sending = ground.isend(values(ground.rank(), count), (to, 14))?;
        ground.same("recv", &ground.recv::<u64>((from, 14))?.0, &values(from, count));
        sending.wait()?;
    }
    Ok(())
}

fn forgotten_send(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        std::mem::forget(ground.isend(values(ground.rank(), count), (to, 15))?);
        ground.same("recv", &ground.recv::<u64>((from, 15))?.0, &values(from, count));
    }
    Ok(())
}

fn forgotten_recv(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [3, 3000] {
        std::mem::forget(ground.irecv(vec![0_u64; count], (from, 16))?);
        // It was there first, so it gets the first message.
        let first = ground.isend(values(ground.rank() + 1, count), (to, 16))?;
        let second = ground.isend(values(ground.rank(), count), (to, 16))?;
        ground.same("recv", &ground.recv::<u64>((from, 16))?.0, &values(from, count));
        first.wait()?;
        second.wait()?;
    }
    Ok(())
}
