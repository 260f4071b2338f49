//! Ranks as the vertices of a graph, and collectives along its edges.

use std::{collections::BTreeMap, marker::PhantomData, ops::Deref};

use super::cart_neighbors::Faces;
use crate::{
    comm::{
        Comm, Ragged, View, ViewMut,
        agreement::Subject,
        all,
        collective::{THEIRS, check_length, check_room},
        lengths,
        view::{OwnedBuf, contents, fill},
    },
    datum::{Datum, Landing, Memory, Outgoing, bytes_of},
    engine::{
        Choice, Collective, Counts, Label, Mode, Neighbors, Op, Rank, Received, Source, Tag,
        Target, Ticket,
    },
    error::{Call, Error, ErrorKind, Fault, Result},
};

/// A communicator whose ranks are the vertices of a directed graph: each knows its *sources* and
/// *destinations*.
///
/// It is a [`Comm`]: all its calls work on it. MPI: a distributed graph topology (MPI 4.1, 8.5.4).
#[derive(Debug)]
pub struct Graph {
    comm: Comm,
    edges: Edges,
}

/// The edges of this rank.
#[derive(Debug)]
struct Edges {
    sources: Vec<Rank>,
    destinations: Vec<Rank>,
}

impl Edges {
    fn neighbors(&self) -> Neighbors<'_> {
        Neighbors { sources: &self.sources, destinations: &self.destinations }
    }
}

/// # Graphs
///
/// Ranks as neighbours of any kind.
impl Comm {
    /// Makes the ranks the vertices of a graph: this rank receives from `sources` and sends to
    /// `destinations`.
    ///
    /// Any directed multigraph will do: edges to oneself, several edges between the same ranks
    /// (matched in the order in which both list them), ranks without edges. Every edge is listed at
    /// both ends.
    ///
    /// # Collective
    /// An allgather of all edges. MPI: `MPI_Dist_graph_create_adjacent` (MPI 4.1, 8.5.4); ranks are
    /// not reordered.
    ///
    /// # Errors
    /// On every rank: [`ErrorKind::InvalidRank`] where a rank is listed that does not exist,
    /// [`ErrorKind::CollectiveMismatch`] on the ranks at both ends of an edge that only one of them
    /// lists, [`ErrorKind::Elsewhere`] on the others.
    ///
    /// # Examples
    /// A tree, in which every rank sends to its parent:
    /// ```
    /// let rows = spmd::local(5, |world| {
    ///     let me = world.rank();
    ///     let children: Vec<usize> = (2 * me + 1..=2 * me + 2).filter(|&rank| rank < 5).collect();
    ///     let parent: Vec<usize> = (me > 0).then(|| (me - 1) / 2).into_iter().collect();
    ///     let tree = world.graph(&children, &parent)?;
    ///     Ok(tree.neighbor_allgather(&vec![me; me])?)
    /// });
    /// let rows = rows.unwrap();
    /// assert_eq!((&rows[0][0], &rows[0][1]), (&[1][..], &[2, 2][..]));
    /// assert_eq!(rows[1].counts().collect::<Vec<_>>(), [3, 4]);
    /// ```
    #[track_caller]
    pub fn graph(&self, sources: &[usize], destinations: &[usize]) -> Result<Graph> {
        let call = all("graph");
        self.perform(call, || {
            let mut mine = vec![sources.len()];
            mine.extend(sources.iter().chain(destinations));
            let lists = self.allgather_as(call, &mine)?;
            check_edges(self.rank, &lists)?;
            let ranks = |list: &[usize]| list.iter().copied().map(Rank::from).collect();
            self.graph_of(ranks(sources), ranks(destinations))
        })
    }

    /// A graph whose edges are known to match.
    pub(super) fn graph_of(
        &self,
        sources: Vec<Rank>,
        destinations: Vec<Rank>,
    ) -> Result<Graph, Fault> {
        Ok(Graph { comm: self.twin()?, edges: Edges { sources, destinations } })
    }
}

/// Whether all edges are listed at both ends. Every rank checks all, so that all come to the same
/// end.
///
/// A rank's list is the number of its sources, the sources, and the destinations.
fn check_edges(me: usize, lists: &Ragged<usize>) -> Result<(), Fault> {
    let size = lists.rows();
    let mut edges = BTreeMap::<(usize, usize), (usize, usize)>::new();
    for (rank, list) in lists.iter().enumerate() {
        let (sources, destinations) = list[1..].split_at(list[0]);
        if let Some(&stranger) = list[1..].iter().find(|&&other| other >= size) {
            let kind = ErrorKind::InvalidRank { rank: stranger, size };
            let elsewhere = || ErrorKind::Elsewhere { rank, cause: kind.to_string() };
            return Err(if rank == me { kind } else { elsewhere() }.into());
        }
        for &to in destinations {
            edges.entry((rank, to)).or_default().0 += 1;
        }
        for &from in sources {
            edges.entry((from, rank)).or_default().1 += 1;
        }
    }
    let Some((&(from, to), &(sent, received))) = edges.iter().find(|(_, (at, of))| at != of) else {
        return Ok(());
    };
    let count =
        |edges: usize| if edges == 1 { "1 edge".to_owned() } else { format!("{edges} edges") };
    let sender = format!("graph with {} to rank {to}", count(sent));
    let receiver = format!("graph with {} from rank {from}", count(received));
    let kind = if me == from {
        ErrorKind::CollectiveMismatch { mine: sender, rank: to, theirs: receiver }
    } else if me == to {
        ErrorKind::CollectiveMismatch { mine: receiver, rank: from, theirs: sender }
    } else {
        ErrorKind::Elsewhere {
            rank: from,
            cause: format!("it calls {sender}, rank {to} calls {receiver}"),
        }
    };
    Err(kind.into())
}

impl Graph {
    /// The ranks that this one receives from, in the order given.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = usize> {
        self.edges.sources.iter().map(|rank| rank.index())
    }

    /// The ranks that this one sends to, in the order given.
    pub fn destinations(&self) -> impl ExactSizeIterator<Item = usize> {
        self.edges.destinations.iter().map(|rank| rank.index())
    }

    /// Sends `mine` to every destination; returns what the sources sent, a row for each, of any
    /// lengths.
    ///
    /// # Collective
    /// One message along every edge. MPI: `MPI_Neighbor_allgatherv` (MPI 4.1, 8.6.1), whose counts
    /// need be known; here they come with the messages.
    ///
    /// # Examples
    /// See [`Comm::graph`].
    #[track_caller]
    pub fn neighbor_allgather<V: View + ?Sized>(&self, mine: &V) -> Result<Ragged<V::Elem>> {
        let call = all("neighbor_allgather");
        self.comm.together(call, Subject::any::<V::Elem>(), |label| {
            let mine = contents(mine);
            self.rows_along_edges(label, |_| &mine)
        })
    }

    /// Sends `mine` to every destination; `out` gets what the sources sent, one behind the other.
    ///
    /// # Collective
    /// All ranks, with equally long `mine`. The MPI library's own `MPI_Neighbor_allgather` (MPI
    /// 4.1, 8.6.1); elsewhere one message along every edge.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `out` is not `sources × mine` long.
    #[track_caller]
    pub fn neighbor_allgather_into<V, W>(&self, mine: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let call = all("neighbor_allgather_into");
        let mine = &*contents(mine);
        self.comm
            .together(call, Subject::like(mine), |label| self.allgather_equal(label, mine, out))
    }

    /// Sends to each destination its row; returns what the sources sent, a row for each, of any
    /// lengths.
    ///
    /// # Collective
    /// One message along every edge. MPI: `MPI_Neighbor_alltoallv` (MPI 4.1, 8.6.2), whose counts
    /// need be known; here they come with the messages.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if there is not one row per destination.
    ///
    /// # Examples
    /// Two edges each way between two ranks:
    /// ```
    /// use spmd::Ragged;
    /// let got = spmd::local(2, |world| {
    ///     let other = [1 - world.rank(); 2];
    ///     let graph = world.graph(&other, &other)?;
    ///     Ok(graph.neighbor_alltoall(&Ragged::from_rows([vec![world.rank()], vec![7, 8]]))?)
    /// });
    /// assert_eq!(got.unwrap()[0], Ragged::from_rows([vec![1], vec![7, 8]]));
    /// ```
    #[track_caller]
    pub fn neighbor_alltoall<T: Datum>(&self, rows: &Ragged<T>) -> Result<Ragged<T>> {
        self.comm.together(all("neighbor_alltoall"), Subject::any::<T>(), |label| {
            self.check_rows(rows)?;
            self.rows_along_edges(label, |at| &rows[at])
        })
    }

    /// Sends to each destination its row; `out` gets what the sources sent. The rows lie one behind
    /// the other.
    ///
    /// # Collective
    /// All ranks, with equally long rows. The MPI library's own `MPI_Neighbor_alltoall` (MPI 4.1,
    /// 8.6.2); elsewhere one message along every edge.
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if `rows` and `out` do not hold equally long rows, one per destination and source.
    #[track_caller]
    pub fn neighbor_alltoall_into<V, W>(&self, rows: &V, out: &mut W) -> Result<()>
    where
        V: View + ?Sized,
        W: ViewMut<Elem = V::Elem> + ?Sized,
    {
        let call = all("neighbor_alltoall_into");
        self.comm.together(call, Subject::any::<V::Elem>(), |label| {
            self.alltoall_equal(label, &contents(rows), out)
        })
    }

    /// Starts to send to each destination its row; [`NeighborRequest::wait`] gives what the sources
    /// sent.
    ///
    /// # Collective
    /// As [`neighbor_alltoall`](Self::neighbor_alltoall). All ranks start, in the same order among
    /// the graph's collectives. MPI: `MPI_Ineighbor_alltoallv` (MPI 4.1, 8.7.2).
    ///
    /// # Errors
    /// [`ErrorKind::LengthMismatch`] if there is not one row per destination.
    ///
    /// # Examples
    /// ```
    /// use spmd::Ragged;
    /// let got = spmd::local(3, |world| {
    ///     let (me, size) = (world.rank(), world.size());
    ///     let ring = world.graph(&[(me + size - 1) % size], &[(me + 1) % size])?;
    ///     let request = ring.ineighbor_alltoall(Ragged::from_rows([vec![me; 2]]))?;
    ///     // ... compute meanwhile ...
    ///     Ok(request.wait()?.into_flat())
    /// });
    /// assert_eq!(got.unwrap(), [[2, 2], [0, 0], [1, 1]]);
    /// ```
    #[track_caller]
    pub fn ineighbor_alltoall<T: Datum>(&self, rows: Ragged<T>) -> Result<NeighborRequest<'_, T>> {
        let call = all("ineighbor_alltoall");
        self.comm.perform(call, || {
            self.check_rows(&rows)?;
            self.start_rows(call, None, |at| &rows[at])
        })
    }

    /// Starts to send `mine` to every destination; [`NeighborRequest::wait`] gives what the sources
    /// sent.
    ///
    /// # Collective
    /// As [`neighbor_allgather`](Self::neighbor_allgather). All ranks start, in the same order
    /// among the graph's collectives. MPI: `MPI_Ineighbor_allgatherv` (MPI 4.1, 8.7.1).
    ///
    /// # Examples
    /// ```
    /// let got = spmd::local(3, |world| {
    ///     let (me, size) = (world.rank(), world.size());
    ///     let ring = world.graph(&[(me + size - 1) % size], &[(me + 1) % size])?;
    ///     let request = ring.ineighbor_allgather(vec![me; me])?;
    ///     // ... compute meanwhile ...
    ///     Ok(request.wait()?.into_flat())
    /// });
    /// assert_eq!(got.unwrap(), [vec![2, 2], vec![], vec![1]]);
    /// ```
    #[track_caller]
    pub fn ineighbor_allgather<B: OwnedBuf>(
        &self,
        mine: B,
    ) -> Result<NeighborRequest<'_, B::Elem>> {
        let call = all("ineighbor_allgather");
        self.comm.perform(call, || {
            let mine = contents(&mine);
            self.start_rows(call, None, |_| &mine)
        })
    }

    /// Starts to send rows of any lengths along all edges; what comes is told by face where the
    /// graph is that of a grid.
    pub(super) fn start_rows<'g, 'r, T: Datum>(
        &'g self,
        call: Call,
        faces: Option<&'g Faces>,
        row: impl Fn(usize) -> &'r [T],
    ) -> Result<NeighborRequest<'g, T>, Fault> {
        let flow = self.flow(Subject::any::<T>().label(call));
        for op in flow.isend_all(|at| bytes_of(row(at)))? {
            self.comm.engine.detach(op); // the rows go on without their owner
        }
        Ok(NeighborRequest { flow, call, faces, arrived: Vec::new(), rows: PhantomData })
    }

    /// Rows of any lengths along all edges: `row(at)` is for the destination number `at`.
    pub(super) fn rows_along_edges<'r, T: Datum>(
        &self,
        label: &Label,
        row: impl Fn(usize) -> &'r [T],
    ) -> Result<Ragged<T>, Fault> {
        let flow = self.flow(*label);
        let sends = flow.isend_all(|at| bytes_of(row(at)))?;
        let mut arrived = Vec::with_capacity(self.edges.sources.len());
        while flow.arrive(&mut arrived, true)? {}
        let rows = flow.fetch(arrived)?;
        sends.into_iter().try_for_each(|op| self.comm.engine.wait(op).map(drop))?;
        Ok(rows)
    }

    pub(super) fn allgather_equal<T: Datum>(
        &self,
        label: &Label,
        mine: &[T],
        out: &mut (impl ViewMut<Elem = T> + ?Sized),
    ) -> Result<(), Fault> {
        let factors = [self.edges.sources.len(), mine.len()];
        let needed = lengths::product("neighbor_allgather_into's mine", factors)?;
        let (neighbors, counts) = (self.edges.neighbors(), Counts::Equal(size_of_val(mine)));
        fill(out, |out| {
            check_room::<T>("neighbor_allgather_into's out", needed, out)?;
            let what =
                Collective::NeighborAllgather { neighbors, mine: bytes_of(mine), counts, out };
            self.comm.collective(label, what).map(|()| ((), needed))
        })
    }

    pub(super) fn alltoall_equal<T: Datum>(
        &self,
        label: &Label,
        rows: &[T],
        out: &mut (impl ViewMut<Elem = T> + ?Sized),
    ) -> Result<(), Fault> {
        let (sources, destinations) = (self.edges.sources.len(), self.edges.destinations.len());
        let neighbors = self.edges.neighbors();
        fill(out, |out| {
            let room = out.len() / size_of::<T>();
            let row = match (destinations, sources) {
                (0, 0) => 0,
                (0, sources) => room / sources,
                (destinations, _) => rows.len() / destinations,
            };
            let needed = lengths::product("neighbor_alltoall_into's rows", [destinations, row])?;
            check_length("neighbor_alltoall_into's rows", needed, rows.len())?;
            let needed = lengths::product("neighbor_alltoall_into's out", [sources, row])?;
            check_length("neighbor_alltoall_into's out", needed, room)?;
            let counts = Counts::Equal(lengths::bytes::<T>("neighbor_alltoall_into's rows", row)?);
            let (rows, send_counts, recv_counts) = (bytes_of(rows), counts, counts);
            let what =
                Collective::NeighborAlltoall { neighbors, rows, send_counts, out, recv_counts };
            self.comm.collective(label, what).map(|()| ((), room))
        })
    }

    fn check_rows<T>(&self, rows: &Ragged<T>) -> Result<(), Fault> {
        check_length("neighbor_alltoall's rows", self.edges.destinations.len(), rows.rows())
    }

    fn flow(&self, label: Label) -> Flow<'_> {
        let tag = Tag::of_call(self.comm.next_seq(), self.comm.max_tag);
        Flow { graph: self, label, tag }
    }
}

impl Deref for Graph {
    type Target = Comm;

    fn deref(&self) -> &Comm {
        &self.comm
    }
}

/// The messages along the edges in one collective call. Those between the same two ranks arrive in
/// the order sent, so that several edges are matched in the order of both lists.
struct Flow<'g> {
    graph: &'g Graph,
    label: Label,
    tag: Tag,
}

impl Flow<'_> {
    /// Starts to send a copy of a row to every destination.
    fn isend_all<'r>(&self, row: impl Fn(usize) -> &'r [u8]) -> Result<Vec<Op>, Fault> {
        let (comm, label, tag) = (&self.graph.comm, self.label, self.tag);
        let send = |(at, &rank): (usize, &Rank)| {
            let to = Target { context: comm.context, rank, tag, label };
            let row = row(at);
            comm.moved(row.len(), 0);
            let copy = Memory::Owned(Box::new(Outgoing(row.to_vec())));
            comm.engine.isend(&to, Mode::Standard, copy)
        };
        self.graph.edges.destinations.iter().enumerate().map(send).collect()
    }

    /// Takes the next source's message out of the queue, waiting for it if `wait`: whether it was
    /// there and wanted.
    fn arrive(&self, arrived: &mut Vec<(Ticket, Received)>, wait: bool) -> Result<bool, Fault> {
        let Some(&rank) = self.graph.edges.sources.get(arrived.len()) else { return Ok(false) };
        let (comm, label) = (&self.graph.comm, self.label);
        let from = Source {
            context: comm.context,
            choice: Choice::new(Some(rank), Some(self.tag)),
            label,
        };
        let found = comm.engine.probe(&from, wait)?;
        arrived.extend(found);
        Ok(found.is_some())
    }

    /// Receives the messages of all sources, a row for each.
    fn fetch<T: Datum>(&self, arrived: Vec<(Ticket, Received)>) -> Result<Ragged<T>, Fault> {
        let engine = &*self.graph.comm.engine;
        let size = size_of::<T>();
        // Another type's message may end within an element: room for that too, the engine then says
        // what it is.
        let bytes = lengths::sum(THEIRS, arrived.iter().map(|(_, received)| received.bytes))?;
        let mut landing = Landing::<T>::new(bytes.div_ceil(size))?;
        let (mut out, mut failure) = (landing.bytes_mut(), None);
        let counts: Vec<usize> =
            arrived.iter().map(|(_, received)| received.bytes / size).collect();
        for (ticket, received) in arrived {
            let (row, rest) = out.split_at_mut(received.bytes);
            out = rest;
            self.graph.comm.moved(0, received.bytes);
            // A row that is refused is no reason to leave the others in the queue.
            if let Err(kind) = engine.fetch(ticket, &self.label, row) {
                failure.get_or_insert(kind);
            }
        }
        if let Some(kind) = failure {
            return Err(kind);
        }
        let whole = lengths::sum(THEIRS, counts.iter().copied())?;
        Ok(Ragged::from_flat(landing.into_values(whole)?, counts))
    }
}

/// A neighbourhood collective under way; the rows to be sent are the engine's.
///
/// Dropped or forgotten unfinished, its incoming rows are lost and the neighbours are none the
/// worse.
#[must_use = "the rows are received by `wait`"]
pub struct NeighborRequest<'g, T> {
    flow: Flow<'g>,
    call: Call,
    /// Those of the grid, on a grid.
    faces: Option<&'g Faces>,
    /// The messages of the first sources, which are here.
    arrived: Vec<(Ticket, Received)>,
    rows: PhantomData<fn() -> T>,
}

impl<T: Datum> NeighborRequest<'_, T> {
    /// Waits for the sources' rows.
    ///
    /// # Errors
    /// As the call that waits; the error names the place where the call was started.
    pub fn wait(mut self) -> Result<Ragged<T>> {
        let mut arrived = std::mem::take(&mut self.arrived);
        self.flow.graph.comm.perform(self.call, || {
            while self.flow.arrive(&mut arrived, true)? {}
            let rows = self.flow.fetch(std::mem::take(&mut arrived))?;
            Ok(match self.faces {
                Some(faces) => faces.arrange(rows),
                None => rows,
            })
        })
    }

    /// The sources' rows if they are all here, else the request again.
    ///
    /// # Errors
    /// `Err(self)` if it goes on; `Ok(Err(…))` as [`NeighborRequest::wait`].
    #[allow(clippy::result_large_err, reason = "the request goes on, it is no error")]
    pub fn test(mut self) -> Result<Result<Ragged<T>>, Self> {
        let comm = &self.flow.graph.comm;
        loop {
            match self.flow.arrive(&mut self.arrived, false) {
                Ok(true) => {}
                Ok(false) if self.arrived.len() == self.flow.graph.edges.sources.len() => {
                    return Ok(self.wait());
                }
                Ok(false) => return Err(self),
                Err(kind) => {
                    let error: Error = comm.failed(kind, self.call);
                    return Ok(Err(error));
                }
            }
        }
    }
}

impl<T> Drop for NeighborRequest<'_, T> {
    fn drop(&mut self) {
        for (ticket, _) in self.arrived.drain(..) {
            self.flow.graph.comm.engine.discard(ticket);
        }
    }
}
