//! Neighbourhood collectives on grids and graphs, and what makes communicators.

use spmd::{Comm, ErrorKind, Failure, Ragged};

use super::{
    Edges, Form, Make, Neighbors,
    judge::Got,
    liar::Liar,
    value::{Element, Stamp, bytes},
};

pub(super) fn meet<T: Element>(
    neighbors: &Neighbors,
    comm: &Comm,
    stamp: Stamp,
) -> Result<Got, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    let (before, after) = ((rank + size - 1) % size, (rank + 1) % size);
    let values = || -> Vec<T> { stamp.values(neighbors.ty, neighbors.length) };
    let by_place = |ragged: Ragged<T>, sources: &[usize]| {
        let rows = ragged.iter().map(bytes).enumerate();
        Got::Rows(rows.map(|(at, row)| (sources.get(at).copied().unwrap_or(size), row)).collect())
    };
    let room = |count: usize| Liar::<T>::room(count * neighbors.length, &neighbors.out);
    let cut =
        |values: Vec<T>, count: usize| Ragged::from_flat(values, vec![neighbors.length; count]);
    let mine = || Liar::new(values(), &neighbors.mine);
    if neighbors.cart {
        let Some(grid) = comm.cart([Some(size)], [true])? else { return Ok(Got::Nothing) };
        let sources = [before, after];
        let twice = || Ragged::from_rows([values(), values()]);
        let got = match (neighbors.all, neighbors.form) {
            (true, Form::Into) => {
                let mut out = room(2);
                grid.neighbor_allgather_into(&mine(), &mut out)?;
                cut(out.into_values(), 2)
            }
            (false, Form::Into) => {
                let mut out = room(2);
                let both = Liar::new(values().repeat(2), &neighbors.mine);
                grid.neighbor_alltoall_into(&both, &mut out)?;
                cut(out.into_values(), 2)
            }
            (true, Form::NonBlocking) => grid.ineighbor_allgather(values())?.wait()?,
            (false, Form::NonBlocking) => grid.ineighbor_alltoall(twice())?.wait()?,
            (true, _) => grid.neighbor_allgather(&mine())?,
            (false, _) => grid.neighbor_alltoall(&twice())?,
        };
        return Ok(by_place(got, &sources));
    }
    let (sources, destinations) = match neighbors.edges {
        Edges::Ring => (vec![before], vec![after]),
        Edges::None => (Vec::new(), vec![after]),
        Edges::Twice => (vec![before, before], vec![after]),
        Edges::Beyond => (vec![before], vec![size + 1]),
    };
    let graph = comm.graph(&sources, &destinations)?;
    let got = match (neighbors.all, neighbors.form) {
        (true, Form::Into) => {
            let mut out = room(sources.len());
            graph.neighbor_allgather_into(&mine(), &mut out)?;
            cut(out.into_values(), sources.len())
        }
        (false, Form::Into) => {
            let mut out = room(sources.len());
            graph.neighbor_alltoall_into(&mine(), &mut out)?;
            cut(out.into_values(), sources.len())
        }
        (true, Form::NonBlocking) => graph.ineighbor_allgather(values())?.wait()?,
        (false, Form::NonBlocking) => {
            graph.ineighbor_alltoall(Ragged::from_rows([values()]))?.wait()?
        }
        (true, _) => graph.neighbor_allgather(&mine())?,
        (false, _) => graph.neighbor_alltoall(&Ragged::from_rows([values()]))?,
    };
    Ok(by_place(got, &sources))
}

pub(super) fn make(made: Make, comm: &Comm) -> Result<Option<Comm>, Failure> {
    let (rank, size) = (comm.rank(), comm.size());
    Ok(match made {
        Make::Dup => Some(comm.dup()?),
        Make::Split(colors) => comm.split(Some(rank as u32 % colors), -(rank as i64))?,
        Make::Node => Some(comm.split_node()?),
        Make::Subset(true) => comm.subset(&(0..size).collect::<Vec<_>>())?,
        Make::Subset(false) => comm.subset(&[rank, size])?,
        Make::Shared => {
            // MPI need not serve several threads.
            let shared = comm.shared();
            let refused =
                |error: &spmd::Error| matches!(error.kind(), ErrorKind::Unsupported { .. });
            if !shared.as_ref().is_err_and(refused) {
                shared?;
            }
            None
        }
        Make::Cart(0, 1) => {
            comm.cart([None, Some(1)], [true, false])?;
            None
        }
        Make::Cart(rows, columns) => {
            comm.cart([Some(rows), Some(columns)], [true, false])?;
            None
        }
    })
}
