//! Arrays that all ranks write and read again, on whatever engine it was started on; with
//! `--bytes`, so many on the first rank and none on the others.

use std::{fmt::Debug, path::PathBuf, process::ExitCode};

use clap::Parser;
use ndarray::{Array, ArrayD, Axis};
use spmd::{
    Comm, Failure, RunArgs,
    array::{Axes, Block, Layout},
    io::{ArrayFile, Provenance, Stored},
};

/// Write arrays and read them again
#[derive(Parser)]
struct Args {
    /// Where the files go
    directory: PathBuf,
    /// Write so many bytes by the first rank, and nothing else
    #[arg(long)]
    bytes: Option<usize>,
    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let args: Args = spmd::parse();
    args.run.run(|world| {
        if let Some(bytes) = args.bytes {
            large(world, &args.directory.join("large.h5"), bytes)?;
        } else {
            for (name, chunk, level) in [
                ("a.npy", None, None),
                ("a.h5", None, None),
                ("chunks.h5", Some(3), None),
                ("packed.h5:/deep/in/it", Some(4), Some(3)),
                ("gzip.h5", None, Some(1)),
            ] {
                let file = parse(&args.directory.join(name))?;
                let stored = |axes: usize| {
                    let mut file = file.clone();
                    if let Some(chunk) = chunk {
                        file = file.chunked(&vec![chunk; axes]);
                    }
                    level.map_or(file.clone(), |level| file.deflate(level))
                };
                round::<f64, 1>(world, &stored(1), [world.size() - 1], |cell| cell as f64 / 7.0)?;
                round::<bool, 2>(world, &stored(2), [13, 7], |cell| cell % 3 == 0)?;
                round::<i16, 3>(world, &stored(3), [2, 11, 5], |cell| -(cell as i16))?;
                round::<u64, 4>(world, &stored(4), [3, 2, 9, 4], |cell| cell as u64 * 0x1234_5678)?;
                round::<f32, 6>(world, &stored(6), [2, 3, 2, 3, 2, 3], |cell| cell as f32)?;
                if name != "a.npy" {
                    let name = format!("series-{}", name.split(':').next().unwrap_or(name));
                    let series = parse(&args.directory.join(name))?;
                    let series = level.map_or(series.clone(), |level| series.deflate(level));
                    grow(world, &series)?;
                }
            }
            disagree(world, &args.directory)?;
        }
        if world.rank() == 0 {
            println!("files: ok");
        }
        Ok(())
    })
}

fn parse(path: &std::path::Path) -> Result<ArrayFile, Failure> {
    Ok(path.display().to_string().parse()?)
}

fn about() -> Provenance {
    let text = |text: &str| text.to_owned();
    Provenance { title: text("a test"), units: text("1"), version: text("files") }
}

/// The block of an array of which every cell is known by its number.
fn part<T: Stored, const D: usize>(
    shape: [usize; D],
    block: &Block<D>,
    value: impl Fn(usize) -> T,
) -> Array<T, <[usize; D] as Axes>::Dim>
where
    [usize; D]: Axes,
{
    let number =
        |index: [usize; D]| (0..D).fold(0, |number, axis| number * shape[axis] + index[axis]);
    let values: Vec<T> = block.indices().map(|index| value(number(index))).collect();
    let array = ArrayD::from_shape_vec(block.shape().to_vec(), values);
    array.expect("a value for each cell").into_dimensionality().expect("as many axes")
}

/// Writes an array by one layout, and reads it by another.
fn round<T: Stored + PartialEq + Debug, const D: usize>(
    world: &Comm,
    file: &ArrayFile,
    shape: [usize; D],
    value: fn(usize) -> T,
) -> Result<(), Failure>
where
    [usize; D]: Axes,
{
    let (rank, ranks) = (world.rank(), world.size());
    let layout = Layout::new(shape, ranks);
    file.write(world, &layout, &part(shape, &layout.block(rank), value), &about())?;
    let block = Layout::along(shape, ranks, &[D - 1]).block(rank);
    let read = file.read::<T, D>(&block)?;
    if read != part(shape, &block, value) {
        return Err(Failure::verification(format!("{file}: {block} is another")));
    }
    world.barrier()?; // all have read before it is written again
    Ok(())
}

/// Extends a series by some steps.
fn grow(world: &Comm, file: &ArrayFile) -> Result<(), Failure> {
    let shape = [9, 14];
    let layout = Layout::new(shape, world.size());
    let at = |step: usize| move |cell: usize| (1000 * step + cell) as i32;
    for step in 0..4 {
        let block = part(shape, &layout.block(world.rank()), at(step));
        file.append(world, step as f64, &layout, &block, &about())?;
    }
    for step in 0..4 {
        let read = file.read::<i32, 3>(&Block::new([step, 0, 0], [1, 9, 14]))?;
        if read.index_axis(Axis(0), 0) != part(shape, &Block::whole(shape), at(step)) {
            return Err(Failure::verification(format!("{file}: step {step} is another")));
        }
    }
    let times = file.times()?;
    if times != [0.0, 1.0, 2.0, 3.0] {
        return Err(Failure::verification(format!("{file}: times {times:?}")));
    }
    Ok(())
}

/// Names another dataset on the last rank, and then another shape.
fn disagree(world: &Comm, directory: &std::path::Path) -> Result<(), Failure> {
    let last = world.rank() + 1 == world.size();
    if world.size() == 1 {
        return Ok(());
    }
    let path = directory.join("disagree.h5");
    let name = if last { "/one" } else { "/other" };
    let other: ArrayFile = format!("{}:{name}", path.display()).parse()?;
    for (file, shape) in [(other, [5, 5]), (parse(&path)?, [5, if last { 6 } else { 5 }])] {
        let layout = Layout::new(shape, world.size());
        let block = part(shape, &layout.block(world.rank()), |cell| cell as f64);
        let failure = file.write(world, &layout, &block, &about()).err();
        let told = failure.as_ref().map(ToString::to_string).unwrap_or_default();
        if !told.contains("this rank calls write of") || path.exists() {
            return Err(Failure::verification(format!("{file}: {failure:?}")));
        }
    }
    Ok(())
}

/// One rank writes much and the others nothing: zeros, but for some places round the limits.
fn large(world: &Comm, path: &std::path::Path, bytes: usize) -> Result<(), Failure> {
    let file = parse(path)?;
    let layout = Layout::on_grid([bytes], [1]);
    let mut block = Array::<u8, _>::zeros(layout.block(world.rank()).shape());
    let places = [0, (1 << 30) - 65, (1 << 30) - 64, 1 << 30, bytes / 2, bytes.saturating_sub(1)];
    let value = |number: usize| number as u8 + 1;
    let within = || places.into_iter().enumerate().filter(|&(_, place)| place < bytes);
    if !block.is_empty() {
        within().for_each(|(number, place)| block[place] = value(number));
    }
    file.write(world, &layout, &block, &about())?;
    drop(block);
    for (number, place) in within() {
        let read = file.read::<u8, 1>(&Block::new([place], [1]))?[0];
        let last = within().rfind(|&(_, other)| other == place);
        if last.is_some_and(|(number, _)| read != value(number)) {
            return Err(Failure::verification(format!("{file}: place {number} holds {read}")));
        }
    }
    world.barrier()?;
    Ok(())
}
