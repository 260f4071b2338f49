//! What is to be measured, and in which order.

use serde::{Deserialize, Serialize};
use spmd::array::Layout;

use super::expression::{self, Filled, Template};
use crate::options::scale::{LauncherKind, Mode, Options};
use crate::statistics::Random;

/// All that decides what a launch does: two studies are one if theirs is the same.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) program: String,
    pub(super) arguments: Template,
    pub(super) launcher: LauncherKind,
    pub(super) launcher_args: Vec<String>,
    pub(super) cores: usize,
    pub(super) launches: usize,
    pub(super) seed: u64,
    pub(super) work: Option<String>,
    pub(super) points: Vec<Point>,
}

/// A number of ranks and threads on a problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) mode: Mode,
    pub(super) ranks: usize,
    pub(super) threads: usize,
    /// The program's arguments.
    pub(super) arguments: Vec<String>,
    /// The numbers among them that the study has chosen.
    pub(super) values: Vec<(String, f64)>,
    /// How much work that is; only ratios count.
    pub(super) work: f64,
    /// How much more work than its even share the rank with the most has, if the numbers are the
    /// axes of an array as this library cuts it; 0 is none.
    pub(super) uneven: f64,
}

impl Point {
    pub(super) fn cores(&self) -> usize {
        self.ranks * self.threads
    }

    /// The work of each core in weak scaling, where that of the base case is 1; in strong scaling it
    /// is shared, and this is 1.
    pub(super) fn share_of_work(&self, base: &Self) -> f64 {
        match self.mode {
            Mode::Strong => 1.0,
            Mode::Weak => (self.work / self.cores() as f64) / (base.work / base.cores() as f64),
        }
    }

    /// `strong 4 x 2`.
    pub(super) fn name(&self) -> String {
        format!("{} {} x {}", self.mode.name(), self.ranks, self.threads)
    }
}

/// Blocks that differ by less are no matter.
const UNEVEN: f64 = 0.02;

impl Plan {
    /// # Errors
    /// What cannot be, and how to mend it.
    pub(super) fn new(options: &Options, cores_here: usize) -> Result<Self, String> {
        let arguments = Template::new(&options.arguments);
        if options.mode.contains(&Mode::Weak) && !arguments.grows()? {
            return Err("--mode weak: no argument of the program grows with the cores\n  help: write a number as an \
                        expression: -- --size '{1000*sqrt(p)},{1000*sqrt(p)}' has work in proportion to p, the cores"
                .to_owned());
        }
        let sorted = |list: &[std::num::NonZeroUsize]| {
            let mut list: Vec<usize> = list.iter().map(|number| number.get()).collect();
            list.sort_unstable();
            list.dedup();
            list
        };
        let mut modes = options.mode.clone();
        modes.sort_unstable();
        modes.dedup();
        let (ranks, threads) = (sorted(&options.ranks), sorted(&options.threads));
        let mut points = Vec::new();
        for &mode in &modes {
            for &threads in &threads {
                for &ranks in &ranks {
                    points.push(point(options, &arguments, mode, ranks, threads)?);
                }
            }
        }
        Ok(Self {
            program: options.program.clone(),
            arguments,
            launcher: options.launcher,
            launcher_args: options.launcher_args.split_whitespace().map(str::to_owned).collect(),
            cores: options.cores.map_or(cores_here, std::num::NonZeroUsize::get),
            launches: options.launches.get(),
            seed: options.seed,
            work: options.work.clone(),
            points,
        })
    }

    /// The launches in the order in which they are made, as indices of points: each round has every
    /// point once, in an order of its own, so that what changes slowly (the clock of the CPUs, other
    /// users) does not meet one point only.
    pub(super) fn order(&self) -> Vec<usize> {
        let mut random = Random(self.seed);
        let mut order = Vec::new();
        for _ in 0..self.launches {
            let mut round: Vec<usize> = (0..self.points.len()).collect();
            for end in (1..round.len()).rev() {
                round.swap(end, random.below(end + 1));
            }
            order.append(&mut round);
        }
        order
    }

    /// Whether so many cores are more than there are.
    pub(super) fn is_crowded(&self, point: &Point) -> bool {
        point.cores() > self.cores
    }

    /// What is odd about the points, before anything is measured.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for mode in [Mode::Strong, Mode::Weak] {
            let points = || self.points.iter().filter(|point| point.mode == mode);
            let list = |of: &dyn Fn(&Point) -> Option<String>| {
                let all: Vec<String> = points().filter_map(of).collect();
                all.join(", ")
            };
            let uneven = list(&|point| {
                (point.uneven > UNEVEN)
                    .then(|| format!("{} ranks: {:.1} %", point.ranks, 100.0 * point.uneven))
            });
            if !uneven.is_empty() {
                warnings.push(format!(
                    "{} scaling: blocks are uneven: the largest has more than its share by ({uneven}); other numbers \
                     divide better",
                    mode.name()
                ));
            }
            let Some(base) = points().min_by_key(|point| point.cores()) else { continue };
            let odd = list(&|point| {
                let share = point.share_of_work(base);
                ((share - 1.0).abs() > UNEVEN)
                    .then(|| format!("{} cores: {:+.1} %", point.cores(), 100.0 * (share - 1.0)))
            });
            if mode == Mode::Weak && !odd.is_empty() {
                warnings.push(format!(
                    "weak scaling: the work of each core is not the same as in the base case ({odd}); efficiencies are \
                     of the work that was done"
                ));
            }
        }
        let crowded: Vec<String> =
            self.points.iter().filter(|point| self.is_crowded(point)).map(Point::name).collect();
        if !crowded.is_empty() {
            warnings.push(format!(
                "more ranks x threads than the {} cores: {} show how ranks share cores, and are in no law and no verdict",
                self.cores,
                crowded.join(", ")
            ));
        }
        warnings
    }
}

fn point(
    options: &Options,
    arguments: &Template,
    mode: Mode,
    ranks: usize,
    threads: usize,
) -> Result<Point, String> {
    let (for_ranks, for_threads) = match mode {
        Mode::Strong => (1, 1),
        Mode::Weak => (ranks, threads),
    };
    let filled = arguments.fill(for_ranks, for_threads)?;
    let work = expression::work(options.work.as_deref(), &filled, for_ranks, for_threads)?;
    let uneven = uneven(&filled, ranks);
    let Filled { arguments, values } = filled;
    Ok(Point { mode, ranks, threads, arguments, values, work, uneven })
}

/// How much larger than its even share the largest block is, of an array whose axes are the numbers.
fn uneven(filled: &Filled, ranks: usize) -> f64 {
    fn largest<const D: usize>(shape: [usize; D], ranks: usize) -> f64 {
        let layout = Layout::new(shape, ranks);
        let cells = |rank: usize| layout.block(rank).shape().iter().product::<usize>();
        (0..ranks).map(cells).max().unwrap_or(0) as f64
    }
    let axes: Vec<usize> =
        filled.values.iter().map(|&(_, value)| value.max(1.0) as usize).collect();
    let cells = axes.iter().map(|&axis| axis as f64).product::<f64>();
    let largest = match *axes {
        [a] => largest([a], ranks),
        [a, b] => largest([a, b], ranks),
        [a, b, c] => largest([a, b, c], ranks),
        _ => return 0.0,
    };
    largest * ranks as f64 / cells - 1.0
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: Options,
    }

    fn plan(words: &str) -> Result<Plan, String> {
        let words = format!("scale program --out here {words}");
        Plan::new(&Command::parse_from(words.split_whitespace()).options, 4)
    }

    #[test]
    fn every_mode_has_every_point_in_order() {
        let plan = plan("--ranks 4,1,2,2 --threads 2,1 --mode weak,strong -- --n {100*p}").unwrap();
        assert_eq!(plan.points.len(), 12);
        assert_eq!(plan.points[0].name(), "strong 1 x 1");
        assert_eq!(plan.points[11].name(), "weak 4 x 2");
        assert_eq!(plan.points[2].arguments, ["--n", "100"], "strong: the same for all");
        assert_eq!(plan.points[11].arguments, ["--n", "800"]);
        assert!(plan.is_crowded(&plan.points[11]) && !plan.is_crowded(&plan.points[8]));
    }

    #[test]
    fn launches_come_in_rounds_of_their_own_order_that_the_seed_decides() {
        let order = |words: &str| plan(words).unwrap().order();
        let points = 8;
        let first = order("--ranks 1,2,3,4,5,6,7,8 --launches 6");
        assert_eq!(first, order("--ranks 1,2,3,4,5,6,7,8 --launches 6"));
        assert_ne!(first, order("--ranks 1,2,3,4,5,6,7,8 --launches 6 --seed 2"));
        let rounds: Vec<&[usize]> = first.chunks(points).collect();
        for round in &rounds {
            let mut sorted = round.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..points).collect::<Vec<_>>());
        }
        assert_ne!(rounds[0], rounds[1]);
    }

    #[test]
    fn uneven_blocks_and_other_work_are_told() {
        let even = plan("--ranks 1,2,4 --mode weak -- {100*p}").unwrap();
        assert_eq!(even.warnings(), Vec::<String>::new());
        let uneven = plan("--ranks 1,3 -- {10}").unwrap().warnings();
        assert!(uneven[0].contains("3 ranks: 20.0 %"), "{uneven:?}");
        let odd = plan("--ranks 1,4 --mode weak -- {3*sqrt(p)} {3*sqrt(p)+1}").unwrap();
        let odd = odd.warnings().join("\n");
        assert!(odd.contains("4 cores: -12.5 %"), "{odd}"); // 12 and 6 x 7 = 42 of 48
        let crowded = plan("--ranks 8").unwrap().warnings();
        assert!(crowded[0].contains("the 4 cores: strong 8 x 1"), "{crowded:?}");
    }

    #[test]
    fn weak_scaling_wants_something_to_grow() {
        assert!(plan("--mode weak -- --n 100").unwrap_err().contains("help: write a number"));
        assert!(plan("-- {n*2}").unwrap_err().contains("no `n`"));
    }
}
