//! Messages between two ranks.

use spmd::{ANY, NULL_RANK, Result, Status};

use super::{
    Case, Ground,
    ground::{COUNTS, Guarded, MEBIBYTE, value, values},
};

pub(super) const CASES: &[Case] = &[
    ("send and recv between all pairs, all sizes", send_recv),
    ("recv_into leaves the rest of the buffer alone", recv_into),
    ("sendrecv round the circle, all sizes", sendrecv),
    ("a mebibyte arrives whole", mebibyte),
    ("a rank sends to itself", to_itself),
    ("recv from any rank names the sender", any_source),
    ("tags select, any tag takes the oldest", tags),
    ("tags reach from 0 to the largest", largest_tag),
    ("messages do not overtake each other", order),
    ("messages to and from nobody", nobody),
    ("probe tells sender, tag and size", probe),
    ("iprobe does not wait", iprobe),
    ("a probed message belongs to its prober", probed_is_taken),
    ("a dropped message is lost, and its sender free", dropped),
    ("the clock goes on", clock),
];

fn send_recv(ground: &Ground<'_>) -> Result<()> {
    for count in COUNTS {
        for (from, to) in pairs(ground) {
            if ground.rank() == from {
                ground.send(&values(from, count), (to, 3))?;
            } else if ground.rank() == to {
                let (got, status) = ground.recv::<u64>((from, 3))?;
                ground.same("recv", &got, &values(from, count));
                ground.equal("its status", status, Status { source: from, tag: 3, count });
            }
        }
    }
    Ok(())
}

/// All ordered pairs of different ranks.
fn pairs(ground: &Ground<'_>) -> impl Iterator<Item = (usize, usize)> {
    let ranks = ground.ranks();
    let all = ranks.clone().flat_map(move |from| ranks.clone().map(move |to| (from, to)));
    all.filter(|(from, to)| from != to)
}

fn recv_into(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in COUNTS {
        let sending = ground.isend(values(ground.rank(), count), to)?;
        let mut guarded = Guarded::new(count + 5, u64::MAX);
        let status = ground.recv_into(guarded.buffer(), from)?;
        ground.same("recv_into", &guarded.buffer()[..count], &values(from, count));
        ground.holds("recv_into writes what it received and no more", guarded.intact_beyond(count));
        ground.equal("its status", status, Status { source: from, tag: 0, count });
        sending.wait()?;
    }
    Ok(())
}

fn sendrecv(ground: &Ground<'_>) -> Result<()> {
    for steps in ground.ranks() {
        let (to, from) = (ground.after(steps), ground.before(steps));
        for count in COUNTS {
            let mut guarded = Guarded::new(count, u64::MAX);
            let mine = values(ground.rank(), count);
            let status = ground.sendrecv(&mine, (to, 9), guarded.buffer(), (from, 9))?;
            ground.same("sendrecv", guarded.buffer(), &values(from, count));
            ground.holds("sendrecv stays inside its buffer", guarded.intact_beyond(count));
            ground.equal("its status", status, Status { source: from, tag: 9, count });
        }
    }
    Ok(())
}

fn mebibyte(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mut guarded = Guarded::new(MEBIBYTE, u64::MAX);
    ground.sendrecv(&values(ground.rank(), MEBIBYTE), to, guarded.buffer(), from)?;
    ground.same("sendrecv", guarded.buffer(), &values(from, MEBIBYTE));
    ground.holds("sendrecv stays inside its buffer", guarded.intact_beyond(MEBIBYTE));
    // Even ranks to the odd one behind them; no circle, so that a blocking send cannot lock up.
    if ground.rank().is_multiple_of(2) && ground.rank() + 1 < ground.size() {
        ground.send(&values(ground.rank(), MEBIBYTE), ground.rank() + 1)?;
    } else if !ground.rank().is_multiple_of(2) {
        let (got, _) = ground.recv::<u64>(from)?;
        ground.same("recv", &got, &values(from, MEBIBYTE));
    }
    Ok(())
}

fn to_itself(ground: &Ground<'_>) -> Result<()> {
    let me = ground.rank();
    for count in COUNTS {
        let sending = ground.isend(values(me, count), (me, 4))?;
        let (got, status) = ground.recv::<u64>((me, 4))?;
        ground.same("recv", &got, &values(me, count));
        ground.equal("its status", status, Status { source: me, tag: 4, count });
        sending.wait()?;
    }
    Ok(())
}

fn any_source(ground: &Ground<'_>) -> Result<()> {
    for root in ground.ranks() {
        if ground.rank() != root {
            ground.send(&values(ground.rank(), 3), (root, 5))?;
            continue;
        }
        let mut senders = vec![root];
        for _ in 1..ground.size() {
            let (got, status) = ground.recv::<u64>((ANY, 5))?;
            ground.same("recv", &got, &values(status.source, 3));
            senders.push(status.source);
        }
        senders.sort_unstable();
        ground.same("the senders", &senders, &ground.ranks().collect::<Vec<_>>());
    }
    // The next case's messages must not be taken for this one's.
    ground.barrier()
}

fn tags(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let tags = [1, 2, 3, 4];
    let sending: Vec<_> =
        tags.iter().map(|&tag| ground.isend(vec![tag], (to, tag))).collect::<Result<_>>()?;
    for tag in [3, 1] {
        let (got, status) = ground.recv::<u32>((from, tag))?;
        ground.same("recv by tag", &got, &[tag]);
        ground.equal("its tag", status.tag, tag);
    }
    for tag in [2, 4] {
        let (got, status) = ground.recv::<u32>((from, ANY))?;
        ground.same("recv of any tag", &got, &[tag]);
        ground.equal("its tag", status.tag, tag);
    }
    spmd::request::wait_all(sending)?;
    Ok(())
}

fn largest_tag(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    ground.holds("the largest tag is at least 32767", ground.max_tag() >= 32767);
    for tag in [0, 1, 255, 32767, ground.max_tag()] {
        let mut got = [0];
        let status = ground.sendrecv(&[ground.rank()], (to, tag), &mut got, (from, tag))?;
        ground.same("sendrecv", &got, &[from]);
        ground.equal("its tag", status.tag, tag);
    }
    Ok(())
}

fn order(ground: &Ground<'_>) -> Result<()> {
    const MESSAGES: usize = 30;
    let (to, from) = (ground.after(1), ground.before(1));
    // Small and large ones alternate: engines send them in different ways.
    let count = |message: usize| if message.is_multiple_of(2) { 1 } else { 2000 };
    let tag = |message: usize| (message % 3) as u32;
    let start = |message| {
        ground.isend(vec![value(ground.rank(), message); count(message)], (to, tag(message)))
    };
    let sending: Vec<_> = (0..MESSAGES).map(start).collect::<Result<_>>()?;
    for message in 0..MESSAGES {
        let wanted = vec![value(from, message); count(message)];
        let (got, status) = match message % 4 {
            0 => ground.recv::<u64>((from, ANY))?,
            1 => ground.recv::<u64>((from, tag(message)))?,
            2 => {
                let probed = ground.probe((from, ANY))?;
                let (tag, source) = (probed.tag(), probed.source());
                let got = probed.recv::<u64>()?;
                let status = Status { source, tag, count: got.len() };
                (got, status)
            }
            _ => ground.irecv(vec![0; 2000], (from, ANY))?.wait()?,
        };
        ground.same("the next message", &got, &wanted);
        ground.equal("its tag", status.tag, tag(message));
    }
    spmd::request::wait_all(sending)?;
    Ok(())
}

fn nobody(ground: &Ground<'_>) -> Result<()> {
    let none = Status { source: NULL_RANK, tag: 0, count: 0 };
    ground.send(&values(0, 2000), None)?;
    ground.send(&[1_u8], NULL_RANK)?;
    let (got, status) = ground.recv::<u64>(None)?;
    ground.holds("recv from nobody is empty", got.is_empty());
    ground.equal("its status", status, none);
    let mut guarded = Guarded::new(3, 7_u64);
    ground.equal("recv_into", ground.recv_into(guarded.buffer(), (None, 6))?, none);
    let status = ground.sendrecv(&[1_u64], None, guarded.buffer(), None)?;
    ground.equal("sendrecv", status, none);
    ground.holds("nothing was written", guarded.intact_beyond(0));
    let sent = ground.isend(vec![1_u8, 2], None)?.wait()?;
    ground.same("isend", &sent, &[1, 2]);
    let (got, status) = ground.irecv(vec![0_u8; 9], None)?.wait()?;
    ground.holds("irecv from nobody is empty", got.is_empty());
    ground.equal("its status", status, none);
    ground.send_obj("nobody hears", None)?;
    // A row of ranks with closed ends: everybody hands its number to the next.
    let next = (ground.rank() + 1 < ground.size()).then(|| ground.rank() + 1);
    let previous = ground.rank().checked_sub(1);
    let mut got = [usize::MAX];
    ground.sendrecv(&[ground.rank()], next, &mut got, previous)?;
    ground.same("along the row", &got, &[previous.unwrap_or(usize::MAX)]);
    Ok(())
}

fn probe(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in COUNTS {
        let sending = ground.isend(values(ground.rank(), count), (to, 17))?;
        let message = ground.probe((ANY, 17))?;
        ground.equal("source", message.source(), from);
        ground.equal("tag", message.tag(), 17);
        ground.equal("bytes", message.bytes(), 8 * count);
        ground.equal("count", message.count::<u64>(), count);
        let mut guarded = Guarded::new(count + 3, u64::MAX);
        let status = message.recv_into(guarded.buffer())?;
        ground.same("recv_into", &guarded.buffer()[..count], &values(from, count));
        ground.holds("recv_into writes what it received and no more", guarded.intact_beyond(count));
        ground.equal("its status", status, Status { source: from, tag: 17, count });
        sending.wait()?;
        let sending = ground.isend(values(ground.rank(), count), (to, 18))?;
        let got = ground.probe((from, ANY))?.recv::<u64>()?;
        ground.same("recv", &got, &values(from, count));
        sending.wait()?;
    }
    Ok(())
}

fn iprobe(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    ground.holds("there is no message yet", ground.iprobe((from, 19))?.is_none());
    // Nobody sends before all have looked.
    ground.barrier()?;
    let sending = ground.isend(values(ground.rank(), 1500), (to, 19))?;
    let message = loop {
        if let Some(message) = ground.iprobe((from, 19))? {
            break message;
        }
        std::thread::yield_now();
    };
    ground.equal("count", message.count::<u64>(), 1500);
    ground.same("recv", &message.recv::<u64>()?, &values(from, 1500));
    ground.holds("there is no second message", ground.iprobe((from, 19))?.is_none());
    sending.wait()?;
    Ok(())
}

fn probed_is_taken(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let first = ground.isend(vec![1_u64], (to, 20))?;
    let second = ground.isend(vec![2_u64], (to, 20))?;
    let message = ground.probe((from, 20))?;
    ground.same("the other message", &ground.recv::<u64>((from, 20))?.0, &[2]);
    ground.same("the probed message", &message.recv::<u64>()?, &[1]);
    first.wait()?;
    second.wait()?;
    Ok(())
}

fn dropped(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    for count in [1, 2000] {
        let sending = ground.isend(values(ground.rank(), count), (to, 21))?;
        drop(ground.probe((from, 21))?);
        sending.wait()?;
        ground.holds("the message is gone", ground.iprobe((from, 21))?.is_none());
        ground.barrier()?;
    }
    ground.still_works()
}

fn clock(ground: &Ground<'_>) -> Result<()> {
    let before = ground.elapsed();
    ground.barrier()?;
    ground.holds("elapsed grows", ground.elapsed() >= before);
    Ok(())
}
