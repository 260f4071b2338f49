//! Ranks that join and leave while the program runs, as a file says.

use std::fs;

use spmd::{record::Record, recover::Origin};

use super::{
    LIMIT, SUM, ranks,
    support::{self, alone, example, mpirun},
    survived_saying, survives, surviving,
};

/// A run whose number of ranks is wished for, one wish in each epoch; any other options.
fn wished(processes: usize, wishes: &str, options: &str) -> (Record, String) {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("ranks");
    let wishes = format!("--size-file {} --wishes {wishes}", file.display());
    survived_saying(processes, &format!("{wishes} {options}"))
}

/// The changes of a run, none of which was a loss.
fn planned(processes: usize, wishes: &str, options: &str) -> (Vec<usize>, String) {
    let (record, said) = wished(processes, wishes, options);
    for (number, epoch) in record.epochs.iter().enumerate() {
        assert!(epoch.lost.is_empty() && epoch.lost_s.is_none(), "{record:#?}\n{said}");
        let from = if number == 0 { Origin::Beginning } else { Origin::Memory };
        assert_eq!(epoch.from, from, "{record:#?}\n{said}");
    }
    for pair in record.epochs.windows(2) {
        let took =
            pair[1].restored_s.zip(pair[0].last_commit_s).map_or(0.0, |(at, from)| at - from);
        println!("takes: {} -> {} ranks: {:.1} ms", pair[0].ranks, pair[1].ranks, took * 1e3);
    }
    assert!(!said.contains("after the loss"), "{said}");
    (ranks(&record), said)
}

#[test]
fn wished_for_ranks_are_spare_processes_first() {
    if !survives() {
        return;
    }
    // Who becomes spare is there for the next wish: no process is started.
    let (ranks, said) = planned(6, "4,2,6,1,3", "--spare-ranks 4");
    assert_eq!(ranks, [2, 4, 2, 6, 1, 3], "{said}");
    let words = "another number of ranks is wished for: 6 (there were 2 ranks";
    assert_eq!(said.matches(words).count(), 1, "{said}");
}

#[test]
fn wished_for_ranks_are_new_processes_then() {
    if !survives() {
        return;
    }
    // Neither is a loss to be survived, to start some for which.
    let (ranks, said) = planned(3, "4,1,5", "--spare-ranks 1 --on-loss shrink");
    assert_eq!(ranks, [2, 4, 1, 5], "{said}");
}

#[test]
fn a_wish_that_cannot_be_met_is_given_up_with_one_warning() {
    if !survives() {
        return;
    }
    let _seats = alone();
    let place = tempfile::tempdir().unwrap();
    let (record, file) = (place.path().join("record.json"), place.path().join("ranks"));
    let (record_name, file_name) = (record.display(), file.display());
    let options =
        format!("--spare-ranks 1 --size-file {file_name} --wishes 7,2,7,7 --record {record_name}");
    // There is room for three processes, and no more.
    let with_room = surviving(3, &options);
    let mut command = support::program(with_room.get_program());
    for word in with_room.get_args() {
        if word == "--oversubscribe" {
            command.args(["--host", "localhost:3"]);
        } else {
            command.arg(word);
        }
    }
    command.envs(with_room.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let out = support::run(&mut command, LIMIT);
    assert!(out.stdout.contains(&format!("{SUM}3 ranks after 4 epochs")), "{out:#?}");
    assert_eq!(out.stderr.matches("no process can be started").count(), 1, "{out:#?}");
    let record = Record::parse(&fs::read_to_string(&record).unwrap()).unwrap();
    assert_eq!(ranks(&record), [2, 3, 2, 3], "{out:#?}");
}

/// A wish, and the loss of a rank: while the commit is made at which it is heard, while state is handed
/// over, and when the ranks are others. The program's first commit ends with its call 50 or so.
#[test]
fn a_wish_and_a_loss_together_are_resolved() {
    if !survives() {
        return;
    }
    let calls = if std::env::var_os("SPMD_CAMPAIGN").is_some() { 38..54 } else { 45..49 };
    let mut losses: Vec<_> = calls.map(|call| (call % 3, format!("{call}"))).collect();
    losses.extend([(0, "4/1".to_owned()), (0, "60/1".to_owned())]);
    for (rank, call) in losses {
        for wishes in ["4,4,4", "1,1,1"] {
            let options = format!("--spare-ranks 2 --on-loss shrink --inject {rank}@{call}");
            let (record, said) = wished(5, wishes, &options);
            let last = record.epochs.last().map(|epoch| epoch.ranks);
            assert_eq!(last, wishes[..1].parse().ok(), "{options}: {record:#?}\n{said}");
            let lost = record.epochs.iter().filter(|epoch| epoch.lost_s.is_some());
            let lost: Vec<_> = lost.map(|epoch| epoch.lost.len()).collect();
            let planned = record.epochs.len() - 1 - lost.len();
            assert!(planned >= 1 && lost.iter().all(|&lost| lost == 1), "{record:#?}\n{said}");
        }
    }
}

/// Of the ranks that the launcher has started: with one of its processes Open MPI 5.0 loses all that were
/// started together later.
#[test]
fn after_growth_by_new_processes_a_loss_is_survived() {
    if !survives() {
        return;
    }
    let (record, said) = wished(2, "4,4,4", "--inject 1@60/1");
    assert_eq!(ranks(&record), [2, 4, 4], "{record:#?}\n{said}");
    assert_eq!(record.epochs[1].lost[0].rank, 1, "{record:#?}\n{said}");
}

#[test]
fn where_losses_are_not_survived_the_number_of_ranks_stays() {
    let _seats = alone();
    let mut command = mpirun(2, &example("surviving"));
    let out = support::run(command.args(["--size-file", "ranks"]), LIMIT).code(2);
    assert!(out.stderr.contains("--size-file is for ranks whose number can change"), "{out:#?}");
    assert!(out.stderr.contains("mpirun --with-ft ulfm"), "{out:#?}");
}
