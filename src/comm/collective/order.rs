//! Calls that bring the ranks into step rather than move data.

use crate::{
    comm::{Comm, Max, agreement::Subject, all},
    engine::Collective,
    error::{Call, Error, ErrorKind, Failure, Result},
    stop::{self, Reason},
};

/// # In step
///
/// Barriers, ranks in turn, results that all share, whether to stop.
impl Comm {
    /// Runs `turn` on rank 0, then on rank 1, and so on; returns when the last rank has had its
    /// turn.
    ///
    /// What `turn` does happens in this order: in a file, in a window, in the program. What it
    /// *prints* need not come out so: under `mpirun` and `srun` every rank writes into a pipe of
    /// its own, and the launcher reads the pipes in any order. For lines in order gather them and
    /// let one rank print:
    /// ```
    /// spmd::local(3, |world| {
    ///     let line = format!("rank {} is ready", world.rank());
    ///     for line in world.gather_obj(0, &line)?.into_iter().flatten() {
    ///         println!("{line}"); // on rank 0
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// ```
    ///
    /// # Collective
    /// A message from each rank to the next, and a barrier: the time of all turns, one after the
    /// other.
    ///
    /// # Examples
    /// ```
    /// use std::sync::Mutex;
    /// let lines = Mutex::new(Vec::new());
    /// spmd::local(3, |world| {
    ///     world.in_rank_order(|| lines.lock().unwrap().push(format!("rank {}", world.rank())))?;
    ///     Ok(())
    /// }).unwrap();
    /// assert_eq!(*lines.lock().unwrap(), ["rank 0", "rank 1", "rank 2"]);
    /// ```
    #[track_caller]
    pub fn in_rank_order<R>(&self, turn: impl FnOnce() -> R) -> Result<R> {
        let call = all("in_rank_order");
        self.together(call, Subject::nothing(), |label| {
            let steps = self.steps(label);
            if self.rank > 0 {
                steps.recv_exact(self.rank - 1, &mut [])?;
            }
            let result = turn();
            // The turn may have made calls of its own.
            self.enter(call);
            if self.rank + 1 < self.size {
                steps.send(self.rank + 1, &[])?;
            }
            self.collective(label, Collective::Barrier)?;
            Ok(result)
        })
    }

    /// Makes the ranks agree whether a task that each did for itself has succeeded: if it failed on
    /// one, it fails on all.
    ///
    /// A rank that failed keeps its own error; the others get [`ErrorKind::Elsewhere`] with the
    /// words of the lowest rank that failed. So a program can handle a failure, or pass it on with
    /// `?`, without leaving anybody in the next collective.
    ///
    /// # Collective
    /// One allgather of 128 bytes per rank; a second one where some error takes more than 95 bytes
    /// to tell.
    ///
    /// # Examples
    /// ```
    /// let outcomes = spmd::local(3, |world| {
    ///     let parsed = ["1", "2", "x"][world.rank()].parse::<i32>();
    ///     Ok(world.agree_result(parsed).map_err(|failure| failure.to_string()))
    /// });
    /// let words = outcomes.unwrap()[0].clone().unwrap_err();
    /// assert!(words.contains("rank 2 failed: invalid digit found in string"), "{words}");
    /// ```
    #[track_caller]
    pub fn agree_result<R, E>(&self, result: Result<R, E>) -> Result<R, Failure>
    where
        Failure: From<E>,
    {
        let outcome = match result {
            Ok(result) => Ok(result),
            Err(error) => Err(Failure::from(error)),
        };
        self.agree_on_outcome(all("agree_result"), outcome)
    }

    /// Whether the program is to stop here: true on all ranks in the same step, if one of them has
    /// reason to.
    ///
    /// A rank has reason to stop when `SIGTERM`, `SIGINT` or `SIGUSR1` has come to its process; when
    /// another step might not end within `--walltime` or before SLURM ends the job
    /// (`SLURM_JOB_END_TIME`); when somebody makes the file `--stop-file`. From the first call on the
    /// first of those signals only asks; a second one ends the process at once, as any does in
    /// programs that do not call this. What has been asked for stays so.
    ///
    /// A program keeps its state then and ends with [`Failure::stopped`] (exit code 5). A
    /// [`Checkpoint`](crate::io::Checkpoint) does all of this by itself.
    ///
    /// # Collective
    /// All ranks, at the end of a step: an allreduce of 2 bytes.
    ///
    /// # Examples
    /// ```
    /// spmd::local(2, |world| {
    ///     for step in 0..10 {
    ///         // ... a step ...
    ///         if world.stop_requested()? {
    ///             // ... keep the state ...
    ///             return Err(spmd::Failure::stopped(format!("stopped after step {step}")));
    ///         }
    ///     }
    ///     Ok(())
    /// }).unwrap();
    /// ```
    #[track_caller]
    pub fn stop_requested(&self) -> Result<bool> {
        let call = all("stop_requested");
        Ok(self.look_round(call, 0, true)?.0.is_some())
    }

    /// Why to stop, if that is to be looked at and so; and what rank 0 thinks is due, as it numbers
    /// that.
    pub(crate) fn look_round(
        &self,
        call: Call,
        due: u8,
        may_stop: bool,
    ) -> Result<(Option<Reason>, u8)> {
        let mut wish = None;
        if may_stop {
            stop::listen();
            wish = stop::wished(self.rank == 0);
        }
        let mine = [wish.map_or(0, |reason| reason as u8), if self.rank == 0 { due } else { 0 }];
        let [reason, due] = self.together(call, Subject::equal::<[u8; 2]>(1), |label| {
            self.reduction_of_one(label, mine, &Max, |mine, out, with| Collective::Allreduce {
                mine,
                out,
                with,
            })
        })?;
        Ok((Reason::of(reason), due))
    }

    /// As [`agree_result`](Self::agree_result), as a part of another call.
    pub(crate) fn agree_on_outcome<R>(
        &self,
        call: Call,
        outcome: Result<R, Failure>,
    ) -> Result<R, Failure> {
        // The exit code and the words; nothing of a success.
        let mut report = Vec::new();
        if let Err(failure) = &outcome {
            report.push(failure.exit_code());
            // Those who learn of it name their own call: a task of that same call needs no place of
            // its own.
            let own = failure.location() == call.at;
            let words = if own { failure.to_string() } else { failure.describe() };
            report.extend(words.bytes());
        }
        let reports =
            self.together(call, Subject::objects(), |label| self.allgather_values(label, &report));
        let result = outcome?;
        let reports = reports?;
        let first = reports.iter().enumerate().find_map(|(rank, report)| {
            let (code, words) = report.split_first()?;
            let cause = String::from_utf8_lossy(words).into_owned();
            Some((ErrorKind::Elsewhere { rank, cause }, *code))
        });
        match first {
            None => Ok(result),
            Some((kind, code)) => {
                Err(Failure::from(Error::new(kind, self.rank, call)).with_exit_code(code))
            }
        }
    }
}
