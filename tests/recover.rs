//! Programs that survive the loss of ranks: on the engine `local`, a loss at each call of each rank.

use std::{
    fs,
    num::{NonZeroU64, NonZeroUsize},
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use spmd::{
    Comm, ErrorKind, Failure,
    array::{Boundary, DistArray, DistVec, Halo, Layout},
    io::{Every, State},
    op::{Max, Sum},
    recover::{Epoch, Faults, OnLoss, Origin, RecoverArgs, Recovery, Survived},
};

const STEPS: u32 = 6;

/// What it goes on from.
fn state<'a>(
    field: &'a mut DistArray<f64, 1>,
    items: &'a mut DistVec<u64>,
    (step, sum, visits): (&'a mut u32, &'a mut u64, &'a mut u64),
) -> State<'a> {
    let merge = |parts: Vec<u64>| parts.into_iter().sum();
    State::new()
        .array("field", field)
        .items("items", items)
        .value("step", step)
        .value("sum", sum)
        .per_rank("visits", visits, merge)
        .constant("length", &13_u64)
}

/// A program with every kind of state and most kinds of calls: its result is the same on any number of
/// ranks.
fn program(world: &Comm, recovery: &mut Recovery<'_>) -> Result<u64, Failure> {
    let layout = Layout::new([13], world.size());
    let halo = Halo::star(1).all(Boundary::Insulated);
    let mut old = DistArray::from_fn(world, &layout, halo, |[i]| (i * i) as f64)?;
    let mut new = old.clone();
    let mut items =
        DistVec::new(world, layout.block(world.rank()).indices().map(|[i]| i as u64).collect())?;
    let (mut step, mut sum, mut visits) = (0_u32, 0_u64, 0_u64);
    recovery.restore(state(&mut old, &mut items, (&mut step, &mut sum, &mut visits)))?;
    while step < STEPS {
        old.update(&mut new, [[0], [-1], [1]], |[here, west, east]| {
            here + 0.25 * ((west - here) + (east - here))
        })?;
        std::mem::swap(&mut old, &mut new);
        for item in items.local_mut() {
            *item = item.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        }
        let mine = items.local().iter().fold(0_u64, |sum, item| sum.wrapping_add(*item));
        let all = world.allgather(&[mine])?.into_flat();
        sum = sum
            .wrapping_mul(31)
            .wrapping_add(all.iter().fold(0, |sum, part| sum.wrapping_add(*part)));
        // A cell is visited once in each step, wherever it is.
        visits += old.block().len() as u64;
        let largest = world.allreduce(&[old.block().len()], Max)?[0];
        assert!(largest <= 13);
        step += 1;
        recovery.commit(state(&mut old, &mut items, (&mut step, &mut sum, &mut visits)))?;
    }
    let visits = world.allreduce(&[visits], Sum)?[0];
    assert_eq!(visits, 13 * u64::from(STEPS));
    let items = items.gather(0)?.map_or(0, |items| {
        items.iter().fold(7_u64, |sum, item| sum.wrapping_mul(31).wrapping_add(*item))
    });
    let items = world.bcast_obj(0, || items)?;
    Ok(old.checksum()? ^ sum.rotate_left(17) ^ items.rotate_left(31))
}

fn options(on_loss: OnLoss) -> RecoverArgs {
    RecoverArgs { on_loss, commit: Every::steps(2), give_up: 1000, ..RecoverArgs::default() }
}

fn with(faults: Faults, on_loss: OnLoss) -> RecoverArgs {
    RecoverArgs { inject: Some(faults), ..options(on_loss) }
}

/// What has been tried, for the sum that `scripts/faults.sh` makes.
#[derive(Default)]
struct Campaign {
    runs: usize,
    losses: usize,
}

impl Campaign {
    /// A run with these options has the right result on all ranks.
    #[track_caller]
    fn survives(&mut self, options: &RecoverArgs, ranks: usize, right: u64) -> Vec<Epoch> {
        let told = options.inject.as_ref().map(ToString::to_string);
        let survived = options.local(ranks, program);
        let Survived { values, epochs } =
            survived.unwrap_or_else(|error| panic!("{told:?}: {error}"));
        assert!(values.iter().all(|&value| value == right), "{told:?} on {ranks}");
        self.runs += 1;
        self.losses += epochs.iter().map(|epoch| epoch.lost.len()).sum::<usize>();
        epochs
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        eprintln!("campaign: {} runs, {} losses", self.runs, self.losses);
    }
}

/// What every run is to return.
fn right() -> u64 {
    options(OnLoss::Respawn).local(1, program).unwrap().values[0]
}

/// So many calls a rank makes at least, if nothing happens: the last at which a loss has an effect.
fn calls(ranks: usize, options: &RecoverArgs) -> u64 {
    let mut low = 1;
    let lost = |call| {
        let faults = Faults::default().and([0], call, 0);
        let options = RecoverArgs { inject: Some(faults), ..options.clone() };
        options.local(ranks, program).unwrap().epochs.len() > 1
    };
    let mut high = 4096;
    while low < high {
        let middle = low + (high - low) / 2;
        if lost(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// Under a sanitizer all takes many times as long.
const SANITIZED: bool = cfg!(any(tsan, asan));

/// A campaign (`scripts/faults.sh`) tries all of what else is tried in part.
fn every() -> usize {
    match std::env::var_os("SPMD_CAMPAIGN") {
        Some(_) => 1,
        None if SANITIZED => 30,
        None => 5,
    }
}

#[test]
fn nothing_is_done_twice_where_nothing_is_lost() {
    let right = right();
    for ranks in [1, 2, 3, 5, 8] {
        let survived = options(OnLoss::Respawn).local(ranks, program).unwrap();
        assert_eq!(survived.values, vec![right; ranks]);
        assert_eq!((survived.epochs.len(), survived.epochs[0].commits), (1, 3));
        assert_eq!(survived.epochs[0].from, Origin::Beginning);
    }
}

/// In worlds of up to three ranks (in a campaign, four) every rank is lost at each of its calls: in
/// computing, in each kind of communication, in each step of a commit, at the end.
#[test]
fn a_loss_at_any_call_leaves_the_result_as_it_is() {
    let (right, mut campaign) = (right(), Campaign::default());
    let most = if every() == 1 { 4 } else { 3 };
    for on_loss in [OnLoss::Respawn, OnLoss::Shrink] {
        for ranks in 1..=most {
            if (on_loss, ranks) == (OnLoss::Shrink, 1) {
                continue; // none would be left
            }
            let calls = calls(ranks, &options(on_loss));
            for rank in 0..ranks {
                for call in (0..calls).step_by(if SANITIZED { 9 } else { 1 }) {
                    let options = with(Faults::default().and([rank], call, 0), on_loss);
                    campaign.survives(&options, ranks, right);
                }
            }
        }
    }
    assert!(campaign.losses > 700 || SANITIZED, "{}", campaign.losses);
}

/// Ranks are lost together: with the one that holds their part, or without; and none is left.
#[test]
fn losses_at_once_leave_the_result_as_it_is() {
    let (right, mut campaign) = (right(), Campaign::default());
    for on_loss in [OnLoss::Respawn, OnLoss::Shrink] {
        let calls = calls(4, &options(on_loss));
        for together in [vec![1, 2], vec![3, 0], vec![0, 2], vec![0, 1, 2], vec![3, 2, 1, 0]] {
            if on_loss == OnLoss::Shrink && together.len() == 4 {
                continue;
            }
            for call in (0..calls).step_by(every()) {
                let faults = Faults::default().and(together.clone(), call, 0);
                let epochs = campaign.survives(&with(faults, on_loss), 4, right);
                let lost: Vec<usize> = epochs[0].lost.iter().map(|loss| loss.rank).collect();
                // A rank may make fewer calls than rank 0.
                assert!(lost == together || epochs.len() == 1, "{together:?}@{call}: {lost:?}");
            }
        }
    }
}

/// A second loss comes while the first is repaired, of a survivor, of the rank that took the place of
/// the lost one, or of the one that holds its part; and a third.
#[test]
fn losses_during_a_repair_leave_the_result_as_it_is() {
    let (right, mut campaign) = (right(), Campaign::default());
    for on_loss in [OnLoss::Respawn, OnLoss::Shrink] {
        let calls = calls(4, &options(on_loss));
        for first in [calls / 3, calls * 2 / 3, calls - 8] {
            for second in (0..60).step_by(every()) {
                for rank in 0..3 {
                    let faults = Faults::default().and([1], first, 0).and([rank], second, 1);
                    let faults = faults.and([0], second / 2, 2);
                    let epochs = campaign.survives(&with(faults, on_loss), 4, right);
                    assert!(epochs.len() >= 2, "1@{first}, {rank}@{second}/1");
                }
            }
        }
    }
}

#[test]
fn many_losses_in_a_row_leave_the_result_as_it_is() {
    let (right, mut campaign) = (right(), Campaign::default());
    let most = NonZeroU64::new(100).unwrap();
    for seed in 0..60 / every() as u64 {
        campaign.survives(&with(Faults::random(seed, 12, most), OnLoss::Respawn), 5, right);
        campaign.survives(&with(Faults::random(seed, 6, most), OnLoss::Shrink), 8, right);
    }
}

/// What was lost with a rank and the one that held its part comes from the disk; so does that of a new
/// run.
#[test]
fn what_memory_has_lost_comes_from_the_disk() {
    let right = right();
    let folder = tempfile::tempdir().unwrap();
    let late = calls(4, &options(OnLoss::Respawn)) - 8;
    let mut options = with(Faults::default().and([1, 2], late, 0), OnLoss::Respawn);
    options.kept.checkpoint = Some(folder.path().join("kept"));
    options.kept.every = Every::steps(3);
    let survived = options.local(4, program).unwrap();
    assert_eq!(survived.values, [right; 4]);
    let from: Vec<Origin> = survived.epochs.iter().map(|epoch| epoch.from).collect();
    assert_eq!(from, [Origin::Beginning, Origin::Disk], "{:?}", survived.epochs);

    options.inject = None;
    let again = options.local(2, program).unwrap();
    assert_eq!((again.values, again.epochs[0].from), (vec![right; 2], Origin::Disk));
}

#[test]
fn a_panic_is_a_loss() {
    let right = right();
    let panics = AtomicUsize::new(0);
    let survived = options(OnLoss::Shrink).local(3, |world, recovery| {
        if recovery.epoch() == 1 && world.rank() == 0 {
            assert!(panics.fetch_add(1, Ordering::Relaxed) > 0, "an accident");
        }
        assert!(recovery.epoch() > 0 || world.rank() != 2, "another accident");
        program(world, recovery)
    });
    let survived = survived.unwrap();
    assert_eq!(survived.values, [right]);
    let ranks: Vec<usize> = survived.epochs.iter().map(|epoch| epoch.ranks).collect();
    assert_eq!(ranks, [3, 2, 1]);
    assert!(survived.epochs[1].lost[0].why.contains("an accident"), "{:?}", survived.epochs[1]);
}

/// A bug is no accident: a program that panics again and again ends, with its cause.
#[test]
fn a_program_that_is_at_fault_ends() {
    let runs = AtomicUsize::new(0);
    let options = RecoverArgs { give_up: 3, ..options(OnLoss::Respawn) };
    let ended = options.local(3, |world, recovery| {
        if world.rank() == 1 {
            runs.fetch_add(1, Ordering::Relaxed);
            panic!("index out of bounds");
        }
        program(world, recovery)
    });
    let text = ended.unwrap_err().to_string();
    assert!(
        text.contains("index out of bounds") && text.contains("the program is at fault"),
        "{text}"
    );
    assert_eq!(runs.into_inner(), 3);

    // Nor does it help that it comes to the same place from its last commit, again and again.
    let runs = AtomicUsize::new(0);
    let ended = options.local(2, |world, recovery| {
        let mut step = 0_u32;
        recovery.restore(State::new().value("step", &mut step))?;
        while step < 10 {
            if (world.rank(), step) == (1, 7) {
                runs.fetch_add(1, Ordering::Relaxed);
                panic!("division by zero");
            }
            step += 1;
            recovery.commit(State::new().value("step", &mut step))?;
        }
        Ok(())
    });
    let text = ended.unwrap_err().to_string();
    assert!(text.contains("division by zero") && text.contains("at fault"), "{text}");
    assert_eq!(runs.into_inner(), 3);
}

/// A rank that panics because its call has failed is no further loss: what it holds is used.
#[test]
fn who_panics_at_a_loss_is_not_lost() {
    let right = right();
    let late = calls(3, &options(OnLoss::Shrink)) - 8;
    let options = with(Faults::default().and([1], late, 0), OnLoss::Shrink);
    let survived =
        options.local(3, |world, recovery| Ok(program(world, recovery).unwrap())).unwrap();
    assert_eq!(survived.values, [right; 2]);
    assert_eq!(survived.epochs[0].lost.len(), 1);
    assert_eq!(survived.epochs[1].from, Origin::Memory);
}

/// A rank that waits for nobody finds out, too.
#[test]
fn a_rank_alone_notices_that_it_is_lost() {
    let most = 1_000_000_u32;
    let options = with(Faults::default().and([0], 500, 0), OnLoss::Respawn);
    let steps = AtomicUsize::new(0);
    let survived = options.local(1, |_, recovery| {
        let mut step = 0_u32;
        recovery.restore(State::new().value("step", &mut step))?;
        while step < most && recovery.epoch() == 0 {
            step += 1;
            steps.fetch_add(1, Ordering::Relaxed);
            recovery.commit(State::new().value("step", &mut step))?;
        }
        Ok(())
    });
    assert_eq!(survived.unwrap().epochs.len(), 2);
    assert!(steps.into_inner() < 1000, "it went on");
}

/// A test is not ended with its process because a rank computes for a while.
#[test]
fn ranks_that_compute_are_waited_for() {
    let compute = || std::thread::sleep(std::time::Duration::from_millis(1500));
    let failed = options(OnLoss::Respawn).local(2, |world, _| {
        if world.rank() == 0 {
            return Err(Failure::new("no such file"));
        }
        compute();
        Ok(())
    });
    assert!(failed.unwrap_err().to_string().contains("no such file"));
}

/// Losses while the state is kept on disk in every step: the checkpoints there are stay whole, and two
/// of them are there.
#[test]
fn losses_while_checkpoints_are_written_leave_the_result_as_it_is() {
    let (right, mut campaign) = (right(), Campaign::default());
    let folder = tempfile::tempdir().unwrap();
    for on_loss in [OnLoss::Respawn, OnLoss::Shrink] {
        for call in (0..250).step_by(every()) {
            let kept = folder.path().join(format!("{on_loss:?}{call}"));
            let mut options = with(Faults::default().and([1], call, 0), on_loss);
            options.commit = Every::steps(5);
            options.kept.checkpoint = Some(kept.clone());
            options.kept.every = Every::steps(1);
            campaign.survives(&options, 3, right);
            let names = fs::read_dir(&kept).unwrap().flatten();
            let names = names.map(|entry| entry.file_name().into_string().unwrap());
            let numbers: Vec<String> = names.filter(|name| name.parse::<u64>().is_ok()).collect();
            // A third stays where the loss came before it was removed.
            assert!([2, 3].contains(&numbers.len()), "1@{call}: {numbers:?}");
            // A new run finds them good.
            options.inject = None;
            assert_eq!(campaign.survives(&options, 2, right)[0].from, Origin::Disk);
            fs::remove_dir_all(kept).unwrap();
        }
    }
}

/// What a program returns by itself ends the job, as without recovery.
#[test]
fn errors_and_deadlocks_of_the_program_end_it() {
    let runs = AtomicUsize::new(0);
    let count = || runs.fetch_add(1, Ordering::Relaxed);
    let failed = options(OnLoss::Respawn).local(3, |world, _| {
        count();
        if world.rank() == 2 { Err(Failure::new("no such file")) } else { Ok(world.barrier()?) }
    });
    assert!(failed.unwrap_err().to_string().contains("no such file"));
    let failed = options(OnLoss::Respawn).local(2, |world, _| {
        count();
        Ok(world.recv::<u8>(1 - world.rank())?)
    });
    assert!(matches!(failed.unwrap_err().kind(), ErrorKind::Deadlock { .. }));
    assert_eq!(runs.into_inner(), 5, "nothing ran twice");

    let least = NonZeroUsize::new(3).unwrap();
    let options =
        RecoverArgs { min_ranks: least, ..with(Faults::default().and([1], 90, 0), OnLoss::Shrink) };
    let text = options.local(3, program).unwrap_err().to_string();
    assert!(text.contains("2 of 3 ranks are left, and --min-ranks asks for 3"), "{text}");
}

/// A program that takes no notice of the loss does not get beyond its next commit.
#[test]
fn a_loss_that_is_ignored_is_repaired_all_the_same() {
    let right = right();
    for call in 0..60 {
        let options = with(Faults::default().and([1], call, 0), OnLoss::Respawn);
        let survived = options.local(3, |world, recovery| {
            if recovery.epoch() == 0 {
                let _ = program(world, recovery);
                let _ = recovery.restore(State::new());
                return Ok(0);
            }
            program(world, recovery)
        });
        let survived = survived.unwrap();
        assert_eq!((survived.values, survived.epochs.len()), (vec![right; 3], 2), "call {call}");
    }
}

/// Ranks join and leave while the program runs, as a file says.
#[test]
fn the_number_of_ranks_is_what_is_wished_for() {
    let right = right();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ranks");
    let options = RecoverArgs { size_file: Some(file.clone()), ..options(OnLoss::Respawn) };
    let survived = options.local(2, |world, recovery| {
        // One wish in each epoch, among them some that are none.
        let wish = ["5", "8", "3\n", "0", "many", "1"].get(recovery.epoch() as usize);
        if let (0, Some(wish)) = (world.rank(), wish) {
            fs::write(&file, wish)?;
        }
        let value = program(world, recovery)?;
        Ok((value, world.size()))
    });
    let survived = survived.unwrap();
    let ranks: Vec<usize> = survived.epochs.iter().map(|epoch| epoch.ranks).collect();
    assert_eq!(ranks, [2, 5, 8, 3]);
    assert_eq!(survived.values, [(right, 3); 3]);
    assert!(survived.epochs[1..].iter().all(|epoch| epoch.from == Origin::Memory));
}

/// Windows, requests and communicators of a world that has lost a rank end with it, unused.
#[test]
fn nothing_of_a_broken_world_is_used_again() {
    let options = |call| with(Faults::default().and([2], call, 0), OnLoss::Shrink);
    for call in 0..40 {
        let survived = options(call).local(4, |world, recovery| {
            let (rank, size) = (world.rank(), world.size());
            let mut step = 0_u32;
            recovery.restore(State::new().value("step", &mut step))?;
            while step < 3 {
                let half = world.split(Some((rank % 2) as u32), rank as i64)?;
                let mut window = world.window::<u64>(4)?;
                window.epoch(|epoch| epoch.put((rank + 1) % size, 0, &[rank as u64 + 1]))?;
                let request = world.irecv::<u64>(vec![0; 1000], (rank + size - 1) % size)?;
                let sent = world.isend(vec![u64::from(step); 1000], (rank + 1) % size)?;
                let (got, _) = request.wait()?;
                sent.wait()?;
                assert_eq!(got, vec![u64::from(step); 1000]);
                if let Some(half) = half {
                    half.barrier()?;
                }
                step += 1;
                recovery.commit(State::new().value("step", &mut step))?;
            }
            Ok(step)
        });
        assert!(survived.unwrap().values.iter().all(|&step| step == 3));
    }
}

/// What losses and commits cost: told by a campaign, judged by nobody.
#[test]
fn what_it_takes() {
    const CELLS: usize = 12_500_000;
    if std::env::var_os("SPMD_CAMPAIGN").is_none() {
        return;
    }
    let told = |what: &str, mut times_s: Vec<f64>| {
        times_s.sort_by(f64::total_cmp);
        let at = |share: f64| times_s[((times_s.len() - 1) as f64 * share).round() as usize] * 1e3;
        eprintln!(
            "takes: {what}: median {:.2} ms, p99 {:.2} ms, of {}",
            at(0.5),
            at(0.99),
            times_s.len()
        );
    };
    for on_loss in [OnLoss::Respawn, OnLoss::Shrink] {
        let (mut gone, mut repaired) = (Vec::new(), Vec::new());
        for seed in 0..150 {
            let faults = Faults::random(seed, 1, NonZeroU64::new(100).unwrap());
            let epochs = with(faults, on_loss).local(4, program).unwrap().epochs;
            for pair in epochs.windows(2) {
                let Some(lost_s) = pair[0].lost_s else { continue };
                gone.push(pair[0].ended_s - lost_s);
                repaired.extend(pair[1].restored_s.map(|restored_s| restored_s - lost_s));
            }
        }
        told(&format!("{on_loss:?}, until all ranks know"), gone);
        told(&format!("{on_loss:?}, until the state is restored"), repaired);
    }
    let options = RecoverArgs { commit: Every::steps(1), ..RecoverArgs::default() };
    let survived = options.local(2, |world, recovery| {
        let layout = Layout::new([CELLS * world.size()], world.size());
        let mut field = DistArray::from_fn(world, &layout, Halo::none(), |[i]| i as f64)?;
        let mut times_s = Vec::new();
        for _ in 0..12 {
            world.barrier()?;
            let began = Instant::now();
            recovery.commit(State::new().array("field", &mut field))?;
            times_s.push(began.elapsed().as_secs_f64());
        }
        Ok(times_s.split_off(2)) // memory is fetched by the first two
    });
    told("a commit of 100 MB a rank, on 2 ranks", survived.unwrap().values.concat());
}

#[test]
fn spare_ranks_are_processes() {
    let options = RecoverArgs { spare_ranks: 1, ..options(OnLoss::Respawn) };
    let error = options.local(2, program).unwrap_err().to_string();
    assert!(error.contains("--spare-ranks is for processes"), "{error}");
}
