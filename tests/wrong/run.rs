//! How a rank carries out its script.

use std::{
    any::Any,
    cell::{OnceCell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
};

use spmd::{ANY, Comm, ErrorKind, Failure};

use super::{
    Access, Act, AtErrors, Ending, Finish, Message, Program, Reach, What,
    call::Started,
    extension::extend,
    judge::{Got, Group},
    liar::Liar,
    memory::{Memory, open},
    message::{go_round, receive, send},
    neighbors::{make, meet},
    value::{Element, Stamp, with_type},
};

/// How the calls of a rank have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) well: u64,
    pub(crate) errors: u64,
    pub(crate) panics: u64,
}

/// How one call has ended.
type Outcome<R> = Result<Result<R, Failure>, Box<dyn Any + Send>>;

impl Program {
    /// Carries out this rank's script. `wrong` is told what must not be.
    pub(crate) fn run(
        &self,
        world: &Comm,
        wrong: &(dyn Fn(String) + Sync),
    ) -> Result<Ends, Failure> {
        let comms: [OnceCell<Comm>; 6] = Default::default();
        let mut runner = Runner {
            program: self,
            world,
            comms: &comms,
            windows: Default::default(),
            pending: Vec::new(),
            me: world.rank(),
            ends: Ends::default(),
            wrong,
        };
        runner.run()
    }
}

/// A window, and the rank and size of the communicator it was opened on.
struct Opened(Memory, (usize, usize));

struct Pending<'c> {
    act: Act,
    group: Group,
    finish: Box<dyn FnOnce() -> Result<Got, Failure> + 'c>,
}

struct Runner<'c> {
    program: &'c Program,
    world: &'c Comm,
    comms: &'c [OnceCell<Comm>; 6],
    windows: [Option<Opened>; 3],
    pending: Vec<Pending<'c>>,
    me: usize,
    ends: Ends,
    wrong: &'c (dyn Fn(String) + Sync),
}

impl<'c> Runner<'c> {
    fn run(&mut self) -> Result<Ends, Failure> {
        let program = self.program;
        let script = &program.scripts[self.me];
        for at in 0..=script.acts.len() {
            if let Some((_, ending)) = script.ending.filter(|&(place, _)| place == at) {
                return self.end(ending).map(|()| self.ends);
            }
            let Some(act) = script.acts.get(at) else { break };
            let group = Group::of(self.comm(act.comm));
            let outcome = self.guarded(|runner| runner.act(act));
            let failure = match outcome {
                Ok(Ok(Some(got))) => {
                    self.ends.well += 1;
                    self.judge(&group, act, &got);
                    continue;
                }
                Ok(Ok(None)) => {
                    self.ends.well += 1;
                    continue;
                }
                Ok(Err(failure)) => failure,
                Err(_) => Failure::new("a call panicked"),
            };
            if program.is_right(act) && !ends_job(&failure) {
                self.tell(act, &format!("fails though nothing is wrong: {failure}"));
            }
            match script.at_errors {
                AtErrors::GoesOn => {}
                AtErrors::Leaves => return Ok(self.ends),
                AtErrors::Fails => return Err(failure),
            }
        }
        while let Some(Pending { act, group, finish }) = self.pending.pop() {
            match self.guarded(|_| finish()) {
                Ok(Ok(got)) => self.judge(&group, &act, &got),
                Ok(Err(failure)) if program.mistakes.is_empty() => {
                    self.tell(&act, &format!("fails though nothing is wrong: {failure}"));
                }
                _ => {}
            }
        }
        Ok(self.ends)
    }

    /// What it does, with its panics caught if the script says so.
    fn guarded<R>(&mut self, body: impl FnOnce(&mut Self) -> Result<R, Failure>) -> Outcome<R> {
        let catches = self.program.scripts[self.me].catches;
        let outcome =
            if catches { catch_unwind(AssertUnwindSafe(|| body(self))) } else { Ok(body(self)) };
        match &outcome {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => self.ends.errors += 1,
            Err(_) => self.ends.panics += 1,
        }
        outcome
    }

    fn judge(&self, group: &Group, act: &Act, got: &Got) {
        if let Err(why) = self.program.judge(group, act, got) {
            self.tell(act, &why);
        }
    }

    fn tell(&self, act: &Act, why: &str) {
        (self.wrong)(format!("rank {}, act {}: {why}: {act:?}", self.me, act.id));
    }

    fn comm(&self, place: usize) -> &'c Comm {
        let comms: &'c [OnceCell<Comm>; 6] = self.comms;
        match place {
            0 => self.world,
            _ => comms.get(place - 1).and_then(OnceCell::get).unwrap_or(self.world),
        }
    }

    fn act(&mut self, act: &Act) -> Result<Option<Got>, Failure> {
        let comm = self.comm(act.comm);
        let stamp = self.program.stamp(act, self.me, Stamp::ALL);
        match &act.what {
            What::Collective(call) => {
                let started = call.start(comm, stamp)?;
                self.finish(act, call.finish, started)
            }
            What::Message(message) => {
                with_type!(message.sent.ty, S => with_type!(message.received.ty, R => {
                    self.message::<S, R>(act, message, comm, stamp)
                }))
            }
            What::Circle(circle) => {
                with_type!(circle.ty, T => go_round::<T>(circle, comm, stamp)).map(Some)
            }
            What::Neighbors(neighbors) => {
                with_type!(neighbors.ty, T => meet::<T>(neighbors, comm, stamp)).map(Some)
            }
            What::Make(made) => {
                let new = make(*made, comm)?;
                if let (Some(new), Some(cell)) =
                    (new, self.comms.iter().find(|cell| cell.get().is_none()))
                {
                    let _ = cell.set(new);
                }
                Ok(Some(Got::Nothing))
            }
            What::Open(opened) => {
                let memory = open(*opened, comm)?;
                self.windows[opened.window] = Some(Opened(memory, (comm.rank(), comm.size())));
                Ok(Some(Got::Nothing))
            }
            What::Reach(reached) => {
                let at = reached.window;
                let opened = self.windows[at].as_mut();
                let reach =
                    |Opened(memory, place): &mut Opened| memory.reach(*reached, *place, stamp);
                opened.map(reach).transpose()
            }
            What::Shut { window, close } => {
                let Some(Opened(memory, _)) = self.windows[*window].take() else { return Ok(None) };
                if *close {
                    memory.close()?;
                }
                Ok(Some(Got::Nothing))
            }
            What::Extension { which, length, bad } => {
                extend(*which, *length, *bad, comm, stamp).map(Some)
            }
        }
    }

    fn finish(
        &mut self,
        act: &Act,
        how: Finish,
        started: Started<'c>,
    ) -> Result<Option<Got>, Failure> {
        let finish = match started {
            Started::Over(got) => return Ok(Some(got)),
            Started::Pending(finish) => finish,
        };
        match how {
            Finish::Now => finish().map(Some),
            Finish::Later => {
                let group = Group::of(self.comm(act.comm));
                self.pending.push(Pending { act: act.clone(), group, finish });
                Ok(None)
            }
            Finish::Dropped => Ok(None),
            Finish::Forgotten => {
                std::mem::forget(finish);
                Ok(None)
            }
        }
    }

    fn message<S: Element, R: Element>(
        &mut self,
        act: &Act,
        message: &Message,
        comm: &'c Comm,
        stamp: Stamp,
    ) -> Result<Option<Got>, Failure> {
        let size = comm.size();
        let (from, to) = (message.from % size, message.to % size);
        let peer = |peer: usize| if peer < 8 { peer % size } else { peer };
        let tag = |tag: u32| if tag == 0 { 4 * act.id as u32 + 8 } else { tag };
        if from == to {
            return Ok(None);
        }
        if comm.rank() == from {
            let side = &message.sent;
            let whom = (peer(side.peer), tag(side.tag));
            let to = comm.world_rank(to);
            let values: Vec<S> = Stamp { to, ..stamp }.values(side.ty, side.length);
            let started = send(comm, message.sending, Liar::new(values, &side.lie), whom)?;
            return self.finish(act, message.finish, started);
        }
        if comm.rank() == to {
            let side = &message.received;
            let room = Liar::<R>::room(side.length, &side.lie);
            let whom = (peer(side.peer), tag(side.tag));
            let started = if message.any {
                receive(comm, message.receiving, room, (ANY, whom.1))
            } else {
                receive(comm, message.receiving, room, whom)
            };
            return self.finish(act, message.finish, started?);
        }
        Ok(None)
    }

    fn end(&mut self, ending: Ending) -> Result<(), Failure> {
        match ending {
            Ending::Early => Ok(()),
            Ending::Error => Err(Failure::new("this rank has had enough")),
            Ending::Panic => panic!("this rank panics"),
            Ending::PanicsWhenPrinted => Err(Bad { when_printed: true }.into()),
            Ending::PanicsWhenDropped => Err(Bad { when_printed: false }.into()),
            Ending::Keeps => {
                let windows = std::mem::take(&mut self.windows);
                let comm = self.world.dup()?;
                KEPT.with_borrow_mut(|kept| kept.0.push((comm, windows)));
                Ok(())
            }
        }
    }
}

/// Whether the failure only says that the job ends.
fn ends_job(failure: &Failure) -> bool {
    let kind = failure.as_error().map(spmd::Error::kind);
    matches!(kind, Some(ErrorKind::Aborted { .. } | ErrorKind::Deadlock { .. }))
}

/// An error that makes trouble itself.
#[derive(Debug)]
struct Bad {
    when_printed: bool,
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        assert!(!self.when_printed, "this error panics when it is printed");
        f.write_str("bad")
    }
}

impl std::error::Error for Bad {}

impl Drop for Bad {
    fn drop(&mut self) {
        assert!(
            self.when_printed || std::thread::panicking(),
            "this error panics when it is dropped"
        );
    }
}

/// What was kept beyond the run is used once more at the end of the thread.
struct Kept(Vec<(Comm, [Option<Opened>; 3])>);

thread_local! {
    static KEPT: RefCell<Kept> = const { RefCell::new(Kept(Vec::new())) };
}

impl Drop for Kept {
    fn drop(&mut self) {
        for (comm, mut windows) in self.0.drain(..) {
            let used = catch_unwind(AssertUnwindSafe(|| {
                let _ = comm.barrier();
                let _ = comm.dup();
                let _ = comm.send(&[1_u8], 0);
                let _ = comm.window::<u64>(8);
                for Opened(memory, place) in windows.iter_mut().flatten() {
                    let stamp = Stamp { program: 0, act: 0, from: 0, to: 0 };
                    for how in [Access::Local, Access::Put] {
                        let reach = Reach { window: 0, how, steps: 0, offset: 0, length: 1 };
                        let _ = memory.reach(reach, *place, stamp);
                    }
                }
            }));
            drop(used);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(windows)));
            let _ = catch_unwind(AssertUnwindSafe(|| drop(comm)));
        }
    }
}

/// Uses what the thread has kept beyond its run.
pub(crate) fn use_what_was_kept() {
    drop(KEPT.replace(Kept(Vec::new())));
}
