//! All ranks write an array into one file, or read their parts of it: HDF5 where the command is
//! built with it, else `.npy`.

use std::{fs, path::Path, time::Duration};

use spmd::{
    Comm, Failure,
    array::{DistArray, Halo, Layout},
    io::{ArrayFile, Provenance},
};

use super::{
    buffer::{pattern, read},
    clock::Clock,
    repeat::Repeat,
};

/// The keys of what ranks write, and of what they find.
const OF_RANKS: usize = 0;
const OF_FILE: usize = 1;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    Write,
    Read,
}

/// Whole files, one after the other: each is on its disk with its name before the next. Those who
/// read have their memory already.
pub(super) struct Files<'c> {
    world: &'c Comm,
    transfer: Transfer,
    file: ArrayFile,
    array: DistArray<u8, 1>,
    about: Provenance,
}

impl<'c> Files<'c> {
    /// A file of so many bytes in a directory that all ranks share.
    ///
    /// # Collective
    pub(super) fn new(
        world: &'c Comm,
        transfer: Transfer,
        bytes: usize,
        directory: &Path,
    ) -> Result<Self, Failure> {
        let suffix = if cfg!(feature = "hdf5") { "h5" } else { "npy" };
        let name = format!("spmd-bench-{}.{suffix}", std::process::id());
        let name = world.bcast_obj(0, || directory.join(name).display().to_string())?;
        let layout = Layout::new([bytes], world.size());
        let value = |[index]: [usize; 1]| pattern(OF_FILE, index);
        let array = DistArray::from_fn(world, &layout, Halo::none(), value)?;
        let words = ["a measurement", "1", env!("CARGO_PKG_VERSION")].map(str::to_owned);
        let [title, units, version] = words;
        let about = Provenance { title, units, version };
        let files = Self { world, transfer, file: name.parse()?, array, about };
        files.file.write_array(&files.array, &files.about)?;
        Ok(files)
    }
}

impl Repeat for Files<'_> {
    fn prepare(&mut self) {
        self.array.map_indexed(|[index], _| match self.transfer {
            Transfer::Write => pattern(OF_RANKS, index),
            Transfer::Read => 0,
        });
    }

    fn repeat<C: Clock>(
        &mut self,
        times: usize,
        touched: bool,
        clock: &C,
    ) -> Result<Duration, Failure> {
        let Self { world, transfer, file, array, about } = self;
        let mut took = Duration::ZERO;
        for turn in 0..times {
            if touched && *transfer == Transfer::Write {
                array.map_inplace(|_| turn as u8);
            }
            world.barrier()?;
            let start = clock.now();
            match transfer {
                Transfer::Write => file.write_array(array, about)?, // returns on all when it is there
                Transfer::Read => {
                    file.read_array_into(array)?;
                    world.barrier()?;
                }
            }
            took += clock.since(start);
            if touched && *transfer == Transfer::Read {
                read(array.view().as_slice().unwrap_or_default());
            }
        }
        Ok(took)
    }

    fn is_right(&self) -> bool {
        let block = self.array.block();
        let is = |values: &[u8], key| {
            block.indices().zip(values).all(|([index], value)| *value == pattern::<u8>(key, index))
        };
        match self.transfer {
            Transfer::Write => self.file.read::<u8, 1>(&block).is_ok_and(|values| {
                is(values.as_slice().unwrap_or_default(), OF_RANKS) && values.len() == block.len()
            }),
            Transfer::Read => is(self.array.view().as_slice().unwrap_or_default(), OF_FILE),
        }
    }

    fn is_timed(&self) -> bool {
        true
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        if self.world.rank() == 0 {
            let _ = fs::remove_file(self.file.path());
        }
    }
}
