//! Datasets that grow along their first axis, which is time.
//!
//! A step comes in this order: room for its cells, the cells, its time. What has no time does not
//! count: the next step takes its place.

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use hdf5::{Dataset, Datatype, Extent, plist::dataset_create::AllocTime};

use super::{
    super::{FileError, Format, New, Part, Step, byte_count, unfinished},
    Reader, Transfer, complaint, open, open_with, raw, text, vtk,
};

/// The dataset with the times of a series.
pub(in crate::io) fn times_path(dataset: &str, vtk: bool) -> String {
    let group =
        if vtk { vtk::STEPS } else { dataset.rsplit_once('/').map_or("", |(group, _)| group) };
    let name = if vtk { "Values" } else { "time" };
    format!("{group}/{name}")
}

impl New {
    fn times(&self) -> String {
        times_path(&self.dataset, self.format == (Format::Hdf5 { vtk: true }))
    }
}

/// The array as a step of the series; the rank that looks finds out which.
pub(in crate::io) fn step(new: New, time: f64, look: bool) -> Result<New, FileError> {
    if new.format == Format::Npy {
        let reason = "a .npy file does not grow; choose a name that ends in .h5".to_owned();
        return Err(FileError::Storage { path: new.path, reason });
    }
    if new.shape.contains(&0) || new.shape.is_empty() {
        let (path, dataset, shape) = (new.path.clone(), Some(new.dataset), new.shape);
        return Err(FileError::Empty { path, dataset, shape });
    }
    let (number, together) = if look { count(&new, time)? } else { (0, true) };
    Ok(new.of_series(Step { number, time, together }))
}

/// The number of steps that are in the file, and whether all ranks together can write one more.
fn count(new: &New, time: f64) -> Result<(usize, bool), FileError> {
    const NONE: (usize, bool) = (0, true);
    let refuse = |reason: String| {
        let reason = format!("{reason} ({})", new.dataset);
        Err(FileError::Storage { path: new.path.clone(), reason })
    };
    if time.is_nan() {
        return refuse("the time of a step is no number; give one that grows".to_owned());
    }
    if new.times() == new.dataset || format!("/{}", new.dataset) == new.times() {
        return refuse("a series has its times under this name; choose another".to_owned());
    }
    match fs::metadata(&new.path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(NONE),
        Ok(about) if about.is_file() && about.len() == 0 => return Ok(NONE),
        _ => {}
    }
    let file = open(&new.path)?;
    let Ok(dataset) = file.dataset(&new.dataset) else {
        return Ok(NONE); // whether it can be replaced is looked at later
    };
    // All together can only fill room that is there as soon as the dataset is extended.
    let properties = dataset.dcpl().map_err(complaint(&new.path))?;
    let together = properties.filters().is_empty() && properties.alloc_time() == AllocTime::Early;
    drop(dataset);
    drop(file);
    let read = |name: &str| Reader::open(&new.path, Some(name), None);
    let (there, times) = (read(&new.dataset)?, read(&new.times()));
    let Ok(times) = times else {
        return refuse(
            "is no series, as it has no times; choose another name, or remove it first".to_owned(),
        );
    };
    let (shape, element) = (there.shape(), there.element());
    if element != new.element || shape.get(1..) != Some(&new.shape) {
        return refuse(format!(
            "is a series of {element} of shape {:?}, not of {} of {:?}; choose another name, or remove it first",
            shape.get(1..).unwrap_or_default(),
            new.element,
            new.shape
        ));
    }
    let times: Vec<f64> = times.read(&Part::whole(times.shape()))?.values;
    match times.last() {
        Some(&last) if last >= time => refuse(format!(
            "has a step of time {last}, which {time} does not follow; choose another name, or remove it first"
        )),
        _ => Ok((times.len(), together)),
    }
}

/// Notes the first time in a new file.
pub(super) fn furnish(file: &hdf5::File, new: &New, step: Step) -> hdf5::Result<()> {
    /// The times that are read at once.
    const TOGETHER: usize = 512;
    let links = hdf5::plist::LinkCreate::build().create_intermediate_group(true).finish()?;
    let times = file
        .new_dataset::<f64>()
        .set_link_create_plist(&links)
        .chunk(TOGETHER)
        .shape(Extent::resizable(1))
        .create(&*new.times())?;
    times.write_raw(&[step.time])?;
    text(&times, "title", "time of each step")?;
    let dataset = file.dataset(&new.dataset)?;
    text(&dataset, "time", &new.times())?;
    if new.times().starts_with(vtk::STEPS) {
        file.group(vtk::STEPS)?.new_attr::<i64>().create("NSteps")?.write_scalar(&1)?;
    }
    Ok(())
}

/// A series that one rank extends by a step.
pub(in crate::io) struct Extension {
    new: New,
    file: hdf5::File,
    dataset: Dataset,
    memory: Datatype,
}

impl Extension {
    /// Makes room for the cells of a step.
    pub(in crate::io) fn begin(new: &New) -> Result<Self, FileError> {
        let bytes = byte_count(&new.shape[1..], new.element);
        if new.storage.deflate.is_none() {
            let before = fs::metadata(&new.path).map_or(0, |about| about.len());
            unfinished::within_limit(&new.path, before.saturating_add(bytes))?;
            unfinished::check_room(&new.path, bytes)?;
        }
        let file = open_to_write(&new.path)?;
        let begin = || {
            let dataset = file.dataset(&new.dataset)?;
            dataset.resize(new.shape.clone())?;
            Ok((dataset, raw::datatype(new.element)?))
        };
        let (dataset, memory) = begin().map_err(complaint(&new.path))?;
        Ok(Self { new: new.clone(), file, dataset, memory })
    }

    /// Writes the cells of a block, which lie together, the last axis fastest.
    pub(in crate::io) fn write(&self, part: &Part, bytes: &[u8]) -> Result<(), FileError> {
        raw::Write::new(&self.dataset, &self.memory, part, bytes, Transfer::ALONE)
            .and_then(|write| write.write())
            .map_err(complaint(&self.new.path))
    }

    /// Closes the file: the step does not count yet.
    pub(in crate::io) fn close(self) -> Result<(), FileError> {
        let Self { new, file, dataset, .. } = self;
        drop(dataset);
        close(&new.path, file)
    }

    pub(in crate::io) fn finish(self) -> Result<(), FileError> {
        let new = self.new.clone();
        self.close()?;
        note_time(&new)
    }
}

/// Makes a step whose cells are in the file count.
pub(in crate::io) fn note_time(new: &New) -> Result<(), FileError> {
    let Some(Step { number, time, .. }) = new.step else { return Ok(()) };
    let file = open_to_write(&new.path)?;
    let note = || {
        let times = file.dataset(&new.times())?;
        times.resize(number + 1)?;
        let part = Part { start: vec![number], lens: vec![1] };
        let memory = raw::datatype(crate::scalar::Element::F64)?;
        let time = time.to_ne_bytes();
        raw::Write::new(&times, &memory, &part, &time, Transfer::ALONE)?.write()?;
        if new.times().starts_with(vtk::STEPS) {
            file.group(vtk::STEPS)?.attr("NSteps")?.write_scalar(&(number as i64 + 1))?;
        }
        Ok(())
    };
    note().map_err(complaint(&new.path))?;
    close(&new.path, file)
}

fn open_to_write(path: &Path) -> Result<hdf5::File, FileError> {
    open_with(path, |path| hdf5::File::open_rw(path))
}

/// Closes a file, of which all is on the disk then.
fn close(path: &Path, file: hdf5::File) -> Result<(), FileError> {
    // Closing would not tell whether the last bytes reached the file.
    file.flush().map_err(complaint(path))?;
    file.close().map_err(complaint(path))?;
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|file| file.sync_all()).map_err(FileError::system(path, "write"))
}
