//! Ranks that do not make the same collective call: all of them are told, and nobody is left
//! waiting.

use spmd::{Checks, Comm, Error, ErrorKind, Result, op::Sum};

use super::{Case, Ground};

pub(super) const CASES: &[Case] = &[
    ("collectives of different kind are told apart", kind),
    ("different roots are told apart", root),
    ("different types are told apart", type_of_element),
    ("different lengths are told apart", length),
    ("collectives in another order are told apart", order),
];

/// A pair of ranks of its own for each disagreement, and whether this rank is the first of it.
fn pair(ground: &Ground<'_>) -> Result<Option<(Comm, bool)>> {
    let pair = ground.split(Some((ground.rank() / 2) as u32), 0)?;
    let checked = ground.checks() >= Checks::Collective;
    Ok(pair.filter(|pair| checked && pair.size() == 2).map(|pair| {
        let first = pair.rank() == 0;
        (pair, first)
    }))
}

/// Both sides are told, with both places in the source.
#[track_caller]
fn told<T>(ground: &Ground<'_>, what: &str, got: Result<T>) {
    let is_told = |error: &Error| match error.kind() {
        ErrorKind::CollectiveMismatch { mine, theirs, .. } => {
            let place = |words: &String| words.contains("agreement.rs:");
            place(mine) && place(theirs) && mine != theirs
        }
        _ => false,
    };
    match got {
        Err(error) if is_told(&error) => {}
        Err(error) => ground.note(|| format!("{what}: told something else: {error}")),
        Ok(_) => ground.note(|| format!("{what}: not told")),
    }
}

fn kind(ground: &Ground<'_>) -> Result<()> {
    let Some((pair, first)) = pair(ground)? else { return Ok(()) };
    let got = if first { pair.barrier() } else { pair.allreduce(&[1], Sum).map(drop) };
    told(ground, "barrier against allreduce", got);
    Ok(())
}

fn root(ground: &Ground<'_>) -> Result<()> {
    let Some((pair, first)) = pair(ground)? else { return Ok(()) };
    // Each takes itself for the root: one that only gives may have gone on before the other comes.
    let root = usize::from(!first);
    if pair.engine() == "local" {
        return Ok(());
    }
    told(ground, "reduce", pair.reduce(root, &[1], Sum));
    Ok(())
}

fn type_of_element(ground: &Ground<'_>) -> Result<()> {
    let Some((pair, first)) = pair(ground)? else { return Ok(()) };
    let got = if first {
        pair.allreduce(&[1_u32], Sum).map(drop)
    } else {
        pair.allreduce(&[1_f32], Sum).map(drop)
    };
    told(ground, "allreduce", got);
    Ok(())
}

fn length(ground: &Ground<'_>) -> Result<()> {
    let Some((pair, first)) = pair(ground)? else { return Ok(()) };
    let count = if first { 3 } else { 4 };
    told(ground, "allreduce", pair.allreduce(&vec![1; count], Sum));
    Ok(())
}

fn order(ground: &Ground<'_>) -> Result<()> {
    let Some((pair, first)) = pair(ground)? else { return Ok(()) };
    let got = if first { pair.gather(0, &[1]).map(drop) } else { pair.allgather(&[1]).map(drop) };
    told(ground, "gather before allgather", got);
    Ok(())
}
