use std::fs;

use super::*;
use crate::array::{DistArray, DistVec, Halo, Layout};

/// What a program has: arrays of several kinds and layouts, values of all and of each rank.
struct Program {
    field: DistArray<f64, 2>,
    flags: DistArray<bool, 1>,
    walkers: DistVec<[u32; 2]>,
    step: u32,
    seen: Vec<usize>,
}

type Sums = (u64, u64, Vec<[u32; 2]>, u32);

impl Program {
    fn new(world: &Comm) -> Self {
        let ranks = world.size();
        let layout = Layout::new([7, 11], ranks);
        let field = DistArray::from_fn(world, &layout, Halo::star(1), |[i, j]| (i * 11 + j) as f64);
        let layout = Layout::along([5], ranks, &[0]); // some have nothing
        let flags = DistArray::from_fn(world, &layout, Halo::none(), |[i]| i % 2 == 0);
        let walkers = (0..if world.rank() == 0 { 40 } else { 0 }).map(|walker| [walker, 0]);
        let walkers = DistVec::new(world, walkers.collect()).unwrap();
        let seen = vec![world.rank()];
        Self { field: field.unwrap(), flags: flags.unwrap(), walkers, step: 0, seen }
    }

    fn state(&mut self) -> State<'_> {
        State::new()
            .array("field", &mut self.field)
            .value("step", &mut self.step)
            .array("flags", &mut self.flags)
            .items("walkers", &mut self.walkers)
            .per_rank("seen", &mut self.seen, |all| all.concat())
            .constant("flow", &0.2)
    }

    fn advance(&mut self) {
        self.step += 1;
        self.field.map_inplace(|cell| (1.25 * cell).sin());
        self.flags.map_inplace(|flag| !flag);
        for [walker, place] in &mut self.walkers {
            *place = (*place + *walker) % 97;
        }
        let ranks = self.walkers.comm().size();
        self.walkers.migrate(|[_, place]| *place as usize % ranks).unwrap();
    }

    /// The arrays, the walkers in any order, the step.
    fn sums(&self) -> Sums {
        let mut walkers = self.walkers.gather(0).unwrap().unwrap_or_default();
        walkers.sort_unstable();
        (self.field.checksum().unwrap(), self.flags.checksum().unwrap(), walkers, self.step)
    }
}

/// Runs the program up to a step on so many ranks; what it went on from, and what it has at the
/// end.
#[allow(clippy::type_complexity)]
fn run(
    directory: &Path,
    ranks: usize,
    steps: u32,
) -> Result<(Option<String>, Sums, Vec<Vec<usize>>), Error> {
    let all = crate::local(ranks, |world| {
        let mut program = Program::new(world);
        let mut checkpoint = Checkpoint::open(world, directory, Every::steps(2))?;
        let from = checkpoint.resume(program.state())?;
        let seen = program.seen.clone();
        while program.step < steps {
            program.advance();
            checkpoint.step(program.state())?;
        }
        let from = from.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
        Ok((from, program.sums(), seen))
    })?;
    let (from, sums, _) = all[0].clone();
    assert!(all.iter().all(|(other, same, _)| (other, same.0) == (&from, sums.0)));
    Ok((from, sums, all.into_iter().map(|(_, _, seen)| seen).collect()))
}

fn at_once(steps: u32) -> Sums {
    let directory = tempfile::tempdir().unwrap();
    run(directory.path(), 1, steps).unwrap().1
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_goes_on_with_the_same_bits_on_any_number_of_ranks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut last = None;
    for (ranks, steps) in [(8, 3), (3, 7), (1, 8), (5, 12), (2, 13)] {
        let (from, sums, _) = run(path, ranks, steps).unwrap();
        assert_eq!(sums, at_once(steps), "{ranks} ranks");
        assert_eq!(from, last);
        let kept = names(path);
        assert_eq!(kept.last().map(String::as_str), Some("lock"));
        last = kept.iter().rev().nth(1).cloned();
        assert!((2..=3).contains(&kept.len()), "{kept:?}");
    }
}

#[test]
fn values_of_each_rank_stay_or_merge() {
    let directory = tempfile::tempdir().unwrap();
    let seen = |ranks| run(directory.path(), ranks, 2).unwrap().2;
    assert_eq!(seen(6), [[0], [1], [2], [3], [4], [5]]);
    assert_eq!(seen(6), [[0], [1], [2], [3], [4], [5]]);
    assert_eq!(seen(4), [vec![0], vec![1, 2], vec![3], vec![4, 5]]);
    assert_eq!(seen(8), [vec![], vec![0], vec![1], vec![2], vec![], vec![3], vec![4], vec![5]]);
}

/// Changes a file of a checkpoint.
fn spoil(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

#[test]
fn what_is_damaged_is_found_and_the_one_before_is_used() {
    type Damage = (&'static str, fn(&Path));
    let damages: [Damage; 8] = [
        ("a bit of a part", |at| spoil(&at.join("part-000001"), |bytes| bytes[60] ^= 4)),
        ("the last bit", |at| {
            spoil(&at.join("part-000002"), |bytes| *bytes.last_mut().unwrap() ^= 128);
        }),
        ("a part cut short", |at| {
            spoil(&at.join("part-000000"), |bytes| bytes.truncate(bytes.len() - 1));
        }),
        ("a part of zeros", |at| spoil(&at.join("part-000000"), |bytes| bytes[24..].fill(0))),
        ("a part gone", |at| fs::remove_file(at.join("part-000002")).unwrap()),
        ("an old part", |at| {
            let old = at.with_file_name("000001").join("part-000001");
            fs::copy(old, at.join("part-000001")).unwrap();
        }),
        ("a bit of the index", |at| spoil(&at.join("index"), |bytes| bytes[30] ^= 1)),
        ("no index", |at| fs::write(at.join("index"), "").unwrap()),
    ];
    for (what, damage) in damages {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        run(path, 3, 4).unwrap();
        assert_eq!(names(path), ["000001", "000002", "lock"]);
        damage(&path.join("000002"));
        let (from, sums, _) = run(path, 2, 6).unwrap();
        assert_eq!((from.as_deref(), sums), (Some("000001"), at_once(6)), "{what}");
        // The damaged one is no longer there.
        assert_eq!(names(path), ["000003", "000004", "lock"], "{what}");
        for name in ["000003", "000004"] {
            damage_all(&path.join(name));
        }
        let words = run(path, 2, 7).unwrap_err().to_string();
        assert!(words.contains("none of the 2 checkpoints"), "{words}");
        assert!(words.contains("000003") && words.contains("begin anew"), "{words}");
    }
}

fn damage_all(checkpoint: &Path) {
    spoil(&checkpoint.join("part-000000"), |bytes| bytes[40] ^= 1);
}

#[test]
fn the_state_of_another_program_is_told_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    run(path, 2, 2).unwrap();
    let resume = |state: fn(&Comm, &mut Checkpoint) -> Result<(), Failure>| {
        let ended = crate::local(3, |world| {
            state(world, &mut Checkpoint::open(world, path, Every::steps(1))?)
        });
        ended.unwrap_err().to_string()
    };
    let words = resume(|_, checkpoint| {
        checkpoint.resume(State::new().value("step", &mut 0_u32))?;
        Ok(())
    });
    assert!(words.contains("\"field\", which the program has not"), "{words}");
    let words = resume(|world, checkpoint| {
        let mut program = Program::new(world);
        let layout = Layout::new([7, 12], world.size());
        program.field = DistArray::from_fn(world, &layout, Halo::none(), |_| 0.0)?;
        checkpoint.resume(program.state())?;
        Ok(())
    });
    assert!(words.contains("7 x 11 of f64 there, and an array of 7 x 12"), "{words}");
    let words = resume(|world, checkpoint| {
        let mut program = Program::new(world);
        let (field, step) = (&mut program.field, &mut program.step);
        let (flags, seen) = (&mut program.flags, &mut program.seen);
        let state = State::new().array("field", field).value("step", step).array("flags", flags);
        let state = state.items("walkers", &mut program.walkers);
        let state = state.per_rank("seen", seen, |all| all.concat()).constant("flow", &0.3);
        checkpoint.resume(state)?;
        Ok(())
    });
    assert!(words.contains("\"flow\" has another value there than here"), "{words}");
    assert_eq!(names(path), ["000001", "lock"]);
}

#[test]
fn ranks_that_keep_different_things_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let ended = crate::local(3, |world| {
        let mut step = usize::from(world.rank() == 1);
        let mut checkpoint = Checkpoint::open(world, directory.path(), Every::steps(1))?;
        Ok(checkpoint.save(State::new().value("step", &mut step)).map_err(|why| why.to_string()))
    });
    for words in ended.unwrap() {
        assert!(words.unwrap_err().contains("\"step\" ("));
    }
    assert_eq!(names(directory.path()), ["lock"]);
}

#[test]
fn ranks_that_name_different_directories_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("one"), directory.path().join("other"));
    for other in [Some(other), None] {
        let ended = crate::local(3, |world| {
            let named = if world.rank() == 1 { other.clone() } else { Some(one.clone()) };
            let args = CheckpointArgs { checkpoint: named, every: Every::steps(1) };
            Ok(args.open(world).map(drop).map_err(|why| why.to_string()))
        });
        for words in ended.unwrap() {
            let words = words.unwrap_err();
            assert!(words.contains("checkpoints in ") && words.contains("/one"), "{words}");
        }
    }
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_directory_has_one_job() {
    let directory = tempfile::tempdir().unwrap();
    let first = Folder::open(directory.path()).unwrap();
    // As of a process that was killed.
    fs::create_dir(directory.path().join(".new-000001")).unwrap();
    fs::write(directory.path().join(".new-000001/part-000000"), "half of it").unwrap();
    let ended = crate::local(2, |world| {
        Checkpoint::open(world, directory.path(), Every::steps(1)).map(drop)
    });
    let words = ended.unwrap_err().to_string();
    assert!(words.contains("another job keeps its checkpoints there"), "{words}");
    drop(first);
    let ended = crate::local(2, |world| {
        Checkpoint::open(world, directory.path(), Every::steps(1)).map(drop)
    });
    ended.unwrap();
    assert_eq!(names(directory.path()), ["lock"]);
}

#[test]
fn a_checkpoint_that_does_not_fit_is_not_begun() {
    let directory = tempfile::tempdir().unwrap();
    let folder = Folder::open(directory.path()).unwrap();
    let words = folder.begin(1, u64::MAX / 2).unwrap_err().to_string();
    assert!(words.contains("needs 9.2 EB, "), "{words}");
    assert_eq!(names(directory.path()), ["lock"]);
}

#[test]
fn nothing_is_kept_where_no_directory_was_named() {
    let sums = crate::local(2, |world| {
        let mut program = Program::new(world);
        let every = "3".parse::<Every>().unwrap();
        let mut checkpoint = CheckpointArgs { checkpoint: None, every }.open(world)?;
        assert_eq!(checkpoint.resume(program.state())?, None);
        checkpoint.step(program.state())?;
        checkpoint.save(program.state())?;
        Ok(())
    });
    sums.unwrap();
}

#[test]
fn large_records_go_round_in_pieces() {
    let directory = tempfile::tempdir().unwrap();
    let part = directory.path().join("part");
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|byte| (byte % 251) as u8).collect();
    let mut writer = PartWriter::create(part.clone(), 7, 3).unwrap();
    for len in [0, 1, 1 << 20, 5_000_000] {
        let fill = |put: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
            bytes[..len].chunks(77_777).try_for_each(put)
        };
        writer.record(len as u64, fill).unwrap();
    }
    let size = writer.finish().unwrap();
    let records = [0, 1, 1 << 20, 5_000_000_u64];
    assert_eq!(size, head_size() + records.map(format::record_size).iter().sum::<u64>());
    let mut reader = PartReader::open(part.clone(), 7, 3, size).unwrap();
    for len in [0, 1, 1 << 20] {
        let mut got = vec![0; len];
        assert_eq!(reader.next_len().unwrap(), len as u64);
        reader.rest_into(&mut got).unwrap();
        assert_eq!(got, bytes[..len]);
    }
    let len = reader.next_len().unwrap();
    assert_eq!(reader.rest_of_record(len).unwrap(), bytes);
    reader.finish().unwrap();
    assert!(PartReader::open(part.clone(), 8, 3, size).is_err());
    assert!(PartReader::open(part, 7, 2, size).is_err());
}
