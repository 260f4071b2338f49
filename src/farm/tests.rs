use std::{collections::BTreeSet, fmt};

use serde::{Deserialize, Serialize, de, ser};

use super::{Farm, Submit};
use crate::{
    comm::{Comm, Sum},
    error::Failure,
    launch::local,
};

const RANKS: [usize; 4] = [1, 2, 3, 8];

/// Work of uneven length, most of it at the end.
fn uneven(input: u64) -> u64 {
    (0..input * input).fold(input, |sum, step| sum.rotate_left(7).wrapping_add(step))
}

/// What every rank's call ended with, as text and exit code; the communicator works as before.
fn ends_everywhere<R>(
    ranks: usize,
    call: impl Fn(&Farm) -> Result<R, Failure> + Send + Sync,
) -> Vec<(String, u8)> {
    let ends = local(ranks, |world| {
        let farm = Farm::new(world)?;
        let failure = call(&farm).err().expect("the call fails");
        assert_eq!(world.allreduce_one(1, Sum)?, world.size());
        let again = farm.map(|| vec![1, 2, 3], |input| Ok(input * 2))?;
        assert_eq!(again.unwrap_or(vec![2, 4, 6]), [2, 4, 6]);
        Ok((failure.to_string(), failure.exit_code()))
    });
    ends.unwrap()
}

#[test]
fn results_are_those_of_a_loop_in_order() {
    for ranks in RANKS {
        for count in [0, 1, 2, 7, 8, 9, 300] {
            let results = local(ranks, |world| {
                let inputs = || (0..count).collect();
                Farm::new(world)?.map(inputs, |&input| Ok(uneven(input)))
            });
            let mut results = results.unwrap().into_iter();
            let wanted: Vec<u64> = (0..count).map(uneven).collect();
            assert_eq!(results.next().flatten().as_ref(), Some(&wanted), "{ranks} ranks");
            assert!(results.all(|result| result.is_none()));
        }
    }
}

#[test]
fn all_ranks_work() {
    for ranks in RANKS {
        let who = local(ranks, |world| {
            let who = Farm::new(world)?.map(|| vec![(); 20 * ranks], |()| Ok(world.rank()))?;
            Ok(who.map(BTreeSet::from_iter))
        });
        assert_eq!(who.unwrap()[0], Some((0..ranks).collect()), "{ranks} ranks");
    }
}

/// The nodes of a tree: a task goes to a node and submits its children.
#[expect(clippy::ptr_arg, clippy::unnecessary_wraps, reason = "a farm gives and takes these")]
fn visit(path: &Vec<u8>, more: &mut Submit<Vec<u8>>) -> Result<Vec<u8>, Failure> {
    let children = if path.len() < 5 {
        (path.len() + path.last().map_or(2, |&last| last.into())) % 4
    } else {
        0
    };
    for child in 0..children {
        more.submit([&path[..], &[child as u8]].concat());
    }
    Ok(path.clone())
}

#[test]
fn tasks_submit_tasks_to_the_end_of_the_tree() {
    let mut alone = None;
    for ranks in RANKS {
        let nodes = local(ranks, |world| {
            let search = |tasks: &mut super::Tasks<'_, _, Vec<u8>>| {
                assert_eq!(tasks.submit(Vec::new()), 0);
                let nodes: Vec<_> = tasks.as_completed().collect::<Result<_, _>>()?;
                let numbers: BTreeSet<_> = nodes.iter().map(|(number, _)| *number).collect();
                assert_eq!(numbers, (0..nodes.len()).collect(), "each task has a number");
                let paths = nodes.into_iter().map(|(_, path)| path);
                Ok(paths.collect::<BTreeSet<_>>())
            };
            Farm::new(world)?.run(search, visit)
        });
        let nodes = nodes.unwrap().swap_remove(0).expect("rank 0 has them");
        assert!(nodes.len() > 20, "{}", nodes.len());
        assert_eq!(alone.get_or_insert_with(|| nodes.clone()), &nodes, "{ranks} ranks");
    }
}

#[test]
fn the_root_submits_while_results_come_and_leaves_what_it_does_not_need() {
    for ranks in RANKS {
        let found = local(ranks, |world| {
            let farm = Farm::new(world)?;
            let found = farm.run(
                |tasks| {
                    (0..200).for_each(|input| _ = tasks.submit(input));
                    let mut sum = 0;
                    while let Some((task, square)) = tasks.next_completed()? {
                        sum += 1;
                        if task % 10 == 0 && task < 200 {
                            tasks.submit(1000 + square);
                        }
                        if sum == 100 {
                            return Ok(sum); // 120 are left
                        }
                    }
                    Ok(0)
                },
                |input: &u64, _| Ok(input * input),
            )?;
            // Nothing of the first call is in the way of the next one.
            let rest = farm.map(|| vec![5], |input: &u64| Ok(input + 1))?;
            Ok((found, rest))
        });
        assert_eq!(found.unwrap()[0], (Some(100), Some(vec![6])), "{ranks} ranks");
    }
}

#[test]
fn a_failing_task_ends_the_call_on_all_ranks_with_its_input() {
    for ranks in RANKS {
        for bad in [0, 10, 59] {
            let ends = ends_everywhere(ranks, |farm| {
                farm.map(
                    || (0..60).map(|number| format!("no. {number}")).collect(),
                    |input: &String| {
                        let number = input.strip_prefix("no. ").expect("a number");
                        if number.parse() == Ok(bad) {
                            return Err(Failure::verification("too bad"));
                        }
                        Ok(input.len())
                    },
                )
            });
            for (text, code) in &ends {
                assert!(text.starts_with(&format!("task \"no. {bad}\" failed on rank ")), "{text}");
                assert!(text.contains(": too bad (") && text.contains("tests.rs:"), "{text}");
                assert_eq!(*code, 3);
                assert_eq!(text, &ends[0].0);
            }
        }
    }
}

#[test]
fn a_panic_in_a_task_ends_the_call_on_all_ranks_with_its_input() {
    for ranks in RANKS {
        let ends = ends_everywhere(ranks, |farm| {
            farm.map(|| vec![4_u8, 2, 0, 1], |&divisor| Ok(100 / divisor))
        });
        for (text, code) in ends {
            assert!(text.starts_with("task 0 failed on rank "), "{text}");
            assert!(text.contains("panicked: attempt to divide by zero"), "{text}");
            assert_eq!(code, 1);
        }
    }
}

#[test]
fn an_error_of_the_root_ends_the_call_on_all_ranks() {
    for ranks in RANKS {
        let ends = ends_everywhere(ranks, |farm| {
            farm.run(
                |tasks| {
                    (0..50).for_each(|input| _ = tasks.submit(input));
                    tasks.next_completed()?;
                    Err::<(), _>(Failure::usage("enough"))
                },
                |input: &u64, _| Ok(uneven(*input)),
            )
        });
        for (text, code) in ends {
            assert!(text.starts_with("enough"), "{text}");
            assert_eq!(code, 2);
        }
        // Who does not pass the error of a task on fails all the same.
        let ends = ends_everywhere(ranks, |farm| {
            farm.run(
                |tasks| {
                    tasks.submit(1);
                    Ok(tasks.as_completed().count())
                },
                |_: &u64, _| Err::<(), _>(Failure::new("no")),
            )
        });
        assert!(ends.iter().all(|(text, _)| text.starts_with("task 1 failed on rank ")));
    }
}

#[test]
fn large_inputs_and_results_travel_while_all_compute() {
    for ranks in RANKS {
        let sums = local(ranks, |world| {
            let inputs = || (0..24_u8).map(|input| vec![input; 100_000]).collect();
            let results =
                Farm::new(world)?.map(inputs, |input| Ok([&input[..], input].concat()))?;
            Ok(results.map(|results| {
                results.iter().map(|result| (result.len(), result[199_999])).collect::<Vec<_>>()
            }))
        });
        let wanted: Vec<_> = (0..24).map(|input| (200_000, input)).collect();
        assert_eq!(sums.unwrap()[0].as_ref(), Some(&wanted));
    }
}

/// A value that other ranks cannot read, or that cannot be sent.
#[derive(Debug)]
struct Odd {
    can_be_sent: bool,
}

impl Serialize for Odd {
    fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.can_be_sent {
            serializer.serialize_u8(1)
        } else {
            Err(ser::Error::custom("not for others"))
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let _ = u8::deserialize(deserializer)?;
        Err(de::Error::custom("who can read this"))
    }
}

#[test]
fn what_cannot_be_sent_or_read_ends_the_call_on_all_ranks() {
    for ranks in [2, 3, 8] {
        for can_be_sent in [true, false] {
            let words = if can_be_sent { "who can read this" } else { "not for others" };
            let as_inputs = ends_everywhere(ranks, |farm| {
                farm.map(|| (0..40).map(|_| Odd { can_be_sent }).collect(), |_| Ok(1))
            });
            let as_results = ends_everywhere(ranks, |farm| {
                farm.map(|| (0..40).collect(), |_: &u8| Ok(Odd { can_be_sent }))
            });
            for (text, _) in as_inputs.iter().chain(&as_results) {
                assert!(text.contains(words), "{text}");
            }
        }
    }
}

/// A value that is hard to show.
#[derive(Serialize, Deserialize)]
enum Shy {
    Long,
    Panics,
}

impl fmt::Debug for Shy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Long => f.write_str(&"é".repeat(5000)),
            Self::Panics => panic!("nobody sees me"),
        }
    }
}

#[test]
fn inputs_are_shown_in_short_and_whatever_they_do() {
    for ranks in [1, 3] {
        let fail = |farm: &Farm, input: fn() -> Shy| {
            farm.map(|| vec![input()], |_| Err::<(), _>(Failure::new("no")))
        };
        for (text, _) in ends_everywhere(ranks, |farm| fail(farm, || Shy::Long)) {
            assert!(text.starts_with(&format!("task {}… failed on", "é".repeat(200))), "{text}");
        }
        for (text, _) in ends_everywhere(ranks, |farm| fail(farm, || Shy::Panics)) {
            assert!(text.starts_with("task that cannot be displayed failed on"), "{text}");
        }
    }
}

#[test]
fn farms_do_not_mix_with_the_messages_of_the_program() {
    let echoes = local(3, |world: &Comm| {
        let (rank, size) = (world.rank(), world.size());
        let sending = world.isend(vec![rank], (rank + 1) % size)?;
        let halves = Farm::new(&world.split(Some((rank % 2) as u32), 0)?.expect("a color"))?
            .map(|| (0..30).collect(), |&input: &u64| Ok(uneven(input)))?;
        let (echo, _) = world.recv::<usize>((rank + size - 1) % size)?;
        sending.wait()?;
        Ok((echo[0], halves.map(|results| results.len())))
    });
    assert_eq!(echoes.unwrap(), [(2, Some(30)), (0, Some(30)), (1, None)]);
}
