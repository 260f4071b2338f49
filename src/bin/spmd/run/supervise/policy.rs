//! Whether a program is started again, and when: no clock, no hosts, no processes.

use std::time::Duration;

/// After so many restarts in a row that came to no checkpoint the program is at fault.
pub(super) const MOST_BARREN: u32 = 3;

/// The pause before a start after a fault: it doubles while there is no progress.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How a start has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// With this exit code of the program, or of a launcher whose program never began.
    Code(u8),
    /// The program was killed, or its launcher was.
    LostRank,
    LostHost,
    /// It made no progress, and was ended.
    Hung,
    /// A user has ended it, or its time is up.
    Asked,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The run has ended as its last start has.
    End,
    /// The program goes on with other hosts or ranks: as was planned.
    GoOn,
    /// It is started again, after a pause: this restart.
    Again { restart: u32, pause: Duration },
    /// The restarts are used up.
    Spent,
    /// Restarts do not help.
    AtFault,
}

pub(super) struct Policy {
    most: u32,
    /// Restarts that there were.
    made: u32,
    /// Of the last ones, those that came to no checkpoint.
    barren: u32,
    /// The last start was a restart.
    is_restart: bool,
    /// Starts in a row without progress, for whatever reason.
    fruitless: u32,
}

impl Policy {
    pub(super) fn new(most: u32) -> Self {
        Self { most, made: 0, barren: 0, is_restart: false, fruitless: 0 }
    }

    /// A start has ended: did it keep a checkpoint, and was it asked to stop for another to go on?
    pub(super) fn next(&mut self, how: How, progressed: bool, planned: bool) -> Next {
        match how {
            How::Code(5) if planned => {
                self.is_restart = false;
                return Next::GoOn;
            }
            // Of its own accord, or a user's: another start would end in the same way.
            How::Asked | How::Code(0 | 2 | 3 | 5 | 126 | 127 | 130) => return Next::End,
            // A panic, or an error of files, may be what a fault has led to. Lost ranks (4), lost
            // hosts (7) and signals (above 128) are faults.
            How::Code(code) if code < 128 && ![4, 7].contains(&code) && !progressed => {
                return Next::End;
            }
            How::Code(_) | How::LostRank | How::LostHost | How::Hung => {}
        }
        if progressed {
            (self.barren, self.fruitless) = (0, 0);
        } else if self.is_restart && how != How::LostHost {
            self.barren += 1;
        }
        if self.barren == MOST_BARREN {
            return Next::AtFault;
        }
        if self.made == self.most {
            return Next::Spent;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.fruitless.min(10)).min(LONGEST_PAUSE);
        self.made += 1;
        self.fruitless += 1;
        self.is_restart = true;
        Next::Again { restart: self.made, pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULTS: [How; 6] =
        [How::LostRank, How::LostHost, How::Hung, How::Code(4), How::Code(7), How::Code(137)];

    fn pause(next: Next) -> Option<f64> {
        match next {
            Next::Again { pause, .. } => Some(pause.as_secs_f64()),
            _ => None,
        }
    }

    #[test]
    fn what_another_start_would_not_mend_is_the_end() {
        for how in [0, 2, 3, 5, 126, 127, 130].map(How::Code).into_iter().chain([How::Asked]) {
            for progressed in [false, true] {
                assert_eq!(Policy::new(9).next(how, progressed, false), Next::End, "{how:?}");
            }
        }
        // Though another start was planned.
        for how in [How::Code(0), How::Code(3), How::Asked] {
            assert_eq!(Policy::new(9).next(how, true, true), Next::End, "{how:?}");
        }
        for code in [1, 41, 101] {
            assert_eq!(Policy::new(9).next(How::Code(code), false, false), Next::End, "{code}");
            assert_eq!(pause(Policy::new(9).next(How::Code(code), true, false)), Some(0.5));
        }
    }

    #[test]
    fn faults_are_got_over_as_often_as_was_said() {
        for how in FAULTS {
            for most in [0, 1, 5] {
                let mut policy = Policy::new(most);
                for number in 1..=most {
                    let next = policy.next(how, true, false);
                    let pause = Duration::from_millis(500);
                    assert_eq!(next, Next::Again { restart: number, pause }, "{how:?}");
                }
                assert_eq!(policy.next(how, true, false), Next::Spent, "{how:?}");
            }
        }
    }

    #[test]
    fn three_restarts_without_progress_are_the_programs_fault() {
        for how in FAULTS.into_iter().filter(|&how| how != How::LostHost) {
            let mut policy = Policy::new(100);
            // The first start is none.
            let pauses: Vec<_> = (0..4).map(|_| pause(policy.next(how, false, false))).collect();
            assert_eq!(pauses, [Some(0.5), Some(1.0), Some(2.0), None], "{how:?}");
            let mut policy = Policy::new(100);
            for _ in 0..3 {
                assert!(pause(policy.next(how, false, false)).is_some());
            }
            // In a row: progress in between starts the count anew.
            assert_eq!(pause(policy.next(how, true, false)), Some(0.5));
            let ends: Vec<_> = (0..3).map(|_| policy.next(how, false, false)).collect();
            assert_eq!(ends[2], Next::AtFault, "{how:?}: {ends:?}");
        }
    }

    #[test]
    fn lost_hosts_are_not_the_programs_fault_and_pauses_grow_to_half_a_minute() {
        let mut policy = Policy::new(100);
        let pauses: Vec<_> =
            (0..9).map(|_| pause(policy.next(How::LostHost, false, false)).unwrap()).collect();
        assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]);
        assert_eq!(pause(policy.next(How::LostHost, true, false)), Some(0.5));
    }

    #[test]
    fn a_planned_stop_is_no_restart() {
        let mut policy = Policy::new(1);
        for _ in 0..20 {
            assert_eq!(policy.next(How::Code(5), true, true), Next::GoOn);
            assert_eq!(policy.next(How::Code(5), false, true), Next::GoOn);
        }
        // What a fault ends meanwhile is one.
        assert!(pause(policy.next(How::LostRank, true, true)).is_some());
        assert_eq!(policy.next(How::Code(5), true, true), Next::GoOn);
        assert_eq!(policy.next(How::LostHost, true, false), Next::Spent);
    }

    #[test]
    fn every_sequence_of_faults_comes_to_an_end() {
        // All sequences of four kinds of ends, with progress and without.
        let kinds: Vec<(How, bool)> = [How::LostRank, How::LostHost, How::Hung, How::Code(1)]
            .into_iter()
            .flat_map(|how| [(how, false), (how, true)])
            .collect();
        for number in 0..kinds.len().pow(5) {
            let (mut policy, mut restarts, mut rest) = (Policy::new(4), 0, number);
            for _ in 0..5 {
                let (how, progressed) = kinds[rest % kinds.len()];
                rest /= kinds.len();
                match policy.next(how, progressed, false) {
                    Next::Again { restart, pause } => {
                        restarts += 1;
                        assert_eq!(restart, restarts);
                        assert!((FIRST_PAUSE..=LONGEST_PAUSE).contains(&pause));
                    }
                    Next::GoOn => panic!("nothing was planned"),
                    Next::End => {
                        assert_eq!((how, progressed), (How::Code(1), false));
                        break;
                    }
                    Next::AtFault => {
                        assert!(restarts >= MOST_BARREN && !progressed);
                        break;
                    }
                    Next::Spent => {
                        assert_eq!(restarts, 4);
                        break;
                    }
                }
            }
            assert!(restarts <= 4);
        }
    }
}
