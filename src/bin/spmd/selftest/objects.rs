//! Values of any type that serde knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use spmd::{ANY, Checks, ErrorKind, Result};

use super::{Case, Ground};

pub(super) const CASES: &[Case] = &[
    ("send_obj and recv_obj", send_recv),
    ("isend_obj and sendrecv_obj never wait for each other", exchanged),
    ("bcast_obj from every root", bcast),
    ("gather_obj, scatter_obj, allgather_obj and alltoall_obj", rows),
    ("reduce_obj, allreduce_obj, scan_obj and exscan_obj keep the order of ranks", reductions),
    ("objects and plain messages are not taken for each other", not_mixed),
    ("objects of another type are refused, and both are named", wrong_object),
    ("what serde's attributes say of a type arrives as it was sent", attributes),
    ("types that are not read as they are written are refused", uneven),
];

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Order {
    Rest,
    Go { name: String, along: Vec<(f64, Option<u32>)> },
    Look(BTreeMap<String, Vec<u8>>),
}

fn orders(rank: usize) -> Vec<Order> {
    let along = (0..rank + 2).map(|step| (step as f64 / 3.0, (step % 2 == 0).then_some(7)));
    let things =
        [("nothing".to_owned(), vec![]), (format!("rank {rank}"), vec![rank as u8; 20_000])];
    vec![
        Order::Rest,
        Order::Go { name: "grüße, 世界".to_owned(), along: along.collect() },
        Order::Look(BTreeMap::from(things)),
    ]
}

fn send_recv(ground: &Ground<'_>) -> Result<()> {
    // A later root's message may be here before an earlier one's.
    let turn = |root: usize| 100 + root as u32;
    for root in ground.ranks() {
        if ground.rank() == root {
            for rank in ground.ranks().filter(|&rank| rank != root) {
                ground.send_obj(&orders(rank), (rank, turn(root)))?;
                ground.send_obj("a borrowed text", (rank, 3))?;
            }
            continue;
        }
        let (got, status) = ground.recv_obj::<Vec<Order>>((ANY, turn(root)))?;
        ground.same("recv_obj", &got, &orders(ground.rank()));
        let (sender, tag) = (root, turn(root));
        ground.equal("its sender", (status.source, status.tag, status.count), (sender, tag, 1));
        let (text, _) = ground.recv_obj::<String>((root, 3))?;
        ground.equal("a text", text.as_str(), "a borrowed text");
    }
    Ok(())
}

fn exchanged(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    let mine = vec![ground.rank(); 30_000];
    let sending = ground.isend_obj(&mine, (to, 1))?;
    let message = ground.probe((from, 1))?;
    ground.equal("its sender", message.source(), from);
    ground.same("by probe", &message.recv_obj::<Vec<usize>>()?, &vec![from; 30_000]);
    sending.wait()?;
    let (got, status) = ground.sendrecv_obj::<_, Vec<usize>>(&mine, (to, 2), (ANY, 2))?;
    ground.same("sendrecv_obj", &got, &vec![from; 30_000]);
    ground.equal("its sender", (status.source, status.count), (from, 1));
    ground.isend_obj("nobody", None)?.wait()?;
    let nobody = ground.sendrecv_obj::<_, String>("", to, None);
    ground.refused("from nobody", nobody, |kind| matches!(kind, ErrorKind::InvalidArgument { .. }));
    ground.still_works()
}

fn bcast(ground: &Ground<'_>) -> Result<()> {
    for root in ground.ranks() {
        let got = ground.bcast_obj(root, || orders(root))?;
        ground.same("bcast_obj", &got, &orders(root));
        let small = ground.bcast_obj(root, || ((), root, "short".to_owned()))?;
        ground.equal("a small object", small, ((), root, "short".to_owned()));
    }
    Ok(())
}

fn rows(ground: &Ground<'_>) -> Result<()> {
    let (me, all) = (ground.rank(), ground.ranks().map(orders).collect::<Vec<_>>());
    for root in ground.ranks() {
        let got = ground.gather_obj(root, &orders(me))?;
        ground.equal("gather_obj", got, (me == root).then(|| all.clone()));
        ground.equal("scatter_obj", ground.scatter_obj(root, || all.clone())?, orders(me));
    }
    ground.same("allgather_obj", &ground.allgather_obj(&orders(me))?, &all);
    let letter = |from: usize, to: usize| (from, to, format!("{from} to {to}").repeat(20 * from));
    let mine: Vec<_> = ground.ranks().map(|to| letter(me, to)).collect();
    let wanted: Vec<_> = ground.ranks().map(|from| letter(from, me)).collect();
    ground.same("alltoall_obj", &ground.alltoall_obj(&mine)?, &wanted);
    let short = ground.alltoall_obj(&mine[1..]);
    ground.refused("alltoall_obj of too few", short, |kind| {
        matches!(kind, ErrorKind::LengthMismatch { .. })
    });
    Ok(())
}

fn reductions(ground: &Ground<'_>) -> Result<()> {
    let (me, size) = (ground.rank(), ground.size());
    for length in [1, 3000] {
        let word = |rank: usize| vec![rank.to_string().repeat(length)];
        let join = |left: Vec<String>, right: Vec<String>| [left, right].concat();
        let words = |ranks: std::ops::Range<usize>| ranks.flat_map(word).collect::<Vec<_>>();
        for root in ground.ranks() {
            let got = ground.reduce_obj(root, word(me), join)?;
            ground.equal("reduce_obj", got, (me == root).then(|| words(0..size)));
        }
        ground.same("allreduce_obj", &ground.allreduce_obj(word(me), join)?, &words(0..size));
        ground.same("scan_obj", &ground.scan_obj(word(me), join)?, &words(0..me + 1));
        let before = (me > 0).then(|| words(0..me));
        ground.equal("exscan_obj", ground.exscan_obj(word(me), join)?, before);
    }
    Ok(())
}

/// Messages carry their types at the highest level of checks.
fn not_mixed(ground: &Ground<'_>) -> Result<()> {
    if ground.checks() < Checks::Full {
        return Ok(());
    }
    let (to, from) = (ground.after(1), ground.before(1));
    let mismatch = |kind: &ErrorKind| matches!(kind, ErrorKind::TypeMismatch { .. });
    let sending = ground.isend(vec![1.5, 2.5], (to, 2))?;
    ground.refused("recv_obj of numbers", ground.recv_obj::<String>((from, 2)), mismatch);
    sending.wait()?;
    // A small object fits into any engine's eager message, so that this does not wait for its
    // receiver.
    ground.send_obj(&7_u8, (to, 4))?;
    ground.refused("recv of an object", ground.recv::<u8>((from, 4)), mismatch);
    ground.still_works()
}

fn wrong_object(ground: &Ground<'_>) -> Result<()> {
    let (to, from) = (ground.after(1), ground.before(1));
    ground.send_obj(&true, (to, 5))?;
    let got = ground.recv_obj::<String>((from, 5));
    ground.refused("recv_obj of another type", got, |kind| {
        let ErrorKind::TypeMismatch { expected, got, .. } = kind else { return false };
        (&**expected, &**got) == ("str", "bool")
    });
    let number = ground.sendrecv_obj::<u32, i32>(&5, (to, 6), (from, 6));
    ground.refused("a number of another type", number, is_mismatch);
    let part = ground.sendrecv_obj::<(u8, u8, u8), u8>(&(1, 2, 3), (to, 7), (from, 7));
    ground.refused("a part of what was sent", part, is_mismatch);
    let bits = ground.sendrecv_obj::<f64, [u8; 8]>(&1.5, (to, 8), (from, 8));
    ground.refused("the bytes of a number", bits, is_mismatch);
    // What only differs in who owns it is the same.
    let text = ground.sendrecv_obj::<str, String>("borrowed", (to, 9), (from, 9))?;
    ground.equal("text", &*text.0, "borrowed");
    let rows = ground.sendrecv_obj::<[&str], Vec<Box<str>>>(&["a", "b"], (to, 10), (from, 10))?;
    ground.same("rows", &rows.0, &["a".into(), "b".into()]);
    ground.still_works()
}

fn is_mismatch(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::TypeMismatch { .. })
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Skipped {
    Before,
    #[serde(skip)]
    Never,
    Behind(u8),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sometimes {
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    first: Vec<u8>,
    second: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    #[allow(clippy::option_option, reason = "formats without a sign for `Some` lose it")]
    own: Option<Option<u32>>,
    #[serde(flatten)]
    sometimes: Sometimes,
    #[serde(flatten)]
    rest: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Number(u32),
    Order(Skipped),
    Text { text: String, letter: char },
    Host(std::net::IpAddr),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Inside {
    Rest,
    Go { along: (f32, f64) },
    Look(Sometimes),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "what")]
enum Beside {
    Rest(()),
    Go(u8, Box<Inside>),
}

/// By every call that takes objects.
fn arrives<S>(ground: &Ground<'_>, mine: &S) -> Result<()>
where
    S: Clone + std::fmt::Debug + PartialEq + Serialize + serde::de::DeserializeOwned,
{
    let (to, from, size) = (ground.after(1), ground.before(1), ground.size());
    let all = vec![mine.clone(); size];
    ground.equal("sendrecv_obj", &ground.sendrecv_obj(mine, (to, 7), (from, 7))?.0, mine);
    ground.equal("bcast_obj", &ground.bcast_obj(0, || mine.clone())?, mine);
    ground.same("allgather_obj", &ground.allgather_obj(mine)?, &all);
    ground.same("alltoall_obj", &ground.alltoall_obj(&all)?, &all);
    ground.equal("scatter_obj", &ground.scatter_obj(0, || all.clone())?, mine);
    let got = ground.gather_obj(0, mine)?;
    ground.equal("gather_obj", got, (ground.rank() == 0).then_some(all));
    ground.equal("allreduce_obj", &ground.allreduce_obj(mine.clone(), |left, _| left)?, mine);
    Ok(())
}

fn attributes(ground: &Ground<'_>) -> Result<()> {
    let (empty, full) = (
        Sometimes { first: vec![], second: vec![0, 5] },
        Sometimes { first: vec![1], second: vec![] },
    );
    arrives(ground, &vec![Skipped::Behind(1), Skipped::Before, Skipped::Behind(2)])?;
    arrives(ground, &(empty.clone(), full.clone(), empty.clone(), 5_u8))?;
    let rest = BTreeMap::from([("more".to_owned(), -7)]);
    for own in [None, Some(None), Some(Some(3))] {
        let flat = Flat { own, sometimes: full.clone(), rest: rest.clone() };
        // serde itself takes an inner `None` of a flattened structure for the outer one.
        if own != Some(None) {
            arrives(ground, &flat)?;
        }
        arrives(ground, &vec![own])?;
    }
    let text = Untagged::Text { text: "grüße".to_owned(), letter: 'ß' };
    let host = Untagged::Host(std::net::Ipv4Addr::LOCALHOST.into());
    arrives(ground, &vec![Untagged::Number(5), Untagged::Order(Skipped::Behind(3)), text, host])?;
    let go = Inside::Go { along: (0.1, f64::NEG_INFINITY) };
    arrives(ground, &[Inside::Rest, go.clone(), Inside::Look(empty)].to_vec())?;
    arrives(ground, &vec![Beside::Rest(()), Beside::Go(9, Box::new(go))])?;
    arrives(ground, &(i8::MIN, i16::MIN, i32::MIN, i64::MIN, i128::MIN, 'x', true, ()))?;
    arrives(ground, &(u8::MAX, u16::MAX, u32::MAX, u64::MAX, u128::MAX, (0.1_f32, 0.1_f64)))?;
    // What serde cannot write at all fails where it is sent.
    let never = ground.isend_obj(&Skipped::Never, ground.rank()).map(drop);
    ground.refused("a variant that is skipped", never, |kind| {
        matches!(kind, ErrorKind::Object { verb: "sent", .. })
    });
    Ok(())
}

/// Read by another name than it is written.
#[derive(Serialize, Deserialize)]
struct Uneven {
    #[serde(rename(serialize = "written", deserialize = "read"))]
    field: u8,
}

fn uneven(ground: &Ground<'_>) -> Result<()> {
    let got = ground.allgather_obj(&Uneven { field: 1 }).map(|all| all[0].field);
    if ground.checks() == Checks::Full {
        ground.refused("a type that is not read as it is written", got, |kind| {
            matches!(kind, ErrorKind::Object { verb: "sent", .. })
        });
    } else {
        ground.refused("a type that is not read as it is written", got, |kind| {
            matches!(kind, ErrorKind::Object { verb: "received", .. })
        });
    }
    ground.still_works()
}
