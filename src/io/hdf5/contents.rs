//! What is in an HDF5 file: every dataset once, whatever links lead to it.

use std::collections::HashSet;

use hdf5::{
    Dataset, Datatype, File, IndexType, IterationOrder, Location, LocationType,
    types::TypeDescriptor,
};

use super::raw::{self, Kind};

/// A dataset and the first path that leads to it.
pub(super) struct Found {
    pub(super) path: String,
    pub(super) dataset: Dataset,
    pub(super) identity: Identity,
}

/// What is the same for two paths that lead to one object: the number of the file, and the
/// library's token, which can only be compared, or printed.
pub(super) type Identity = (u64, String);

impl Found {
    /// Whether its elements are known, and it has so many axes where that is asked.
    pub(super) fn fits(&self, axes: Option<usize>) -> bool {
        axes.is_none_or(|axes| self.dataset.ndim() == axes)
            && self.dataset.space().is_ok_and(|space| !space.is_null())
            && self.dataset.dtype().is_ok_and(|element| raw::element(&element).is_some())
    }

    /// Path, shape and type.
    pub(super) fn describe(&self) -> String {
        let Self { path, dataset, .. } = self;
        let element = dataset.dtype().map_or("an unknown type".to_owned(), |dtype| element(&dtype));
        if dataset.space().is_ok_and(|space| space.is_null()) {
            return format!("{path}: no {element}"); // a dataset that was never meant to hold any
        }
        format!("{path}: {:?} of {element}", dataset.shape())
    }
}

/// All datasets of a file. Links of every kind are followed, also into other files; those that lead
/// nowhere are passed over, and each group is looked into once, so that links may run in circles.
pub(super) fn datasets(file: &File) -> hdf5::Result<Vec<Found>> {
    let mut found = Vec::new();
    let mut seen = HashSet::new();
    // All are kept open to the end: the library numbers files anew when it opens them again.
    let mut groups = vec![(String::new(), file.as_group()?)];
    seen.insert(identity(&groups[0].1)?);
    let mut next = 0;
    while next < groups.len() {
        let (above, group) = (groups[next].0.clone(), groups[next].1.clone());
        next += 1;
        for (name, _) in group.links(IndexType::Name, IterationOrder::Increasing)? {
            let path = format!("{above}/{name}");
            let kind = group.loc_info_by_name(&name).map(|info| info.loc_type);
            match kind {
                Ok(LocationType::Dataset) => {
                    if let Ok(dataset) = group.dataset(&name)
                        && let Ok(identity) = identity(&dataset)
                        && seen.insert(identity.clone())
                    {
                        found.push(Found { path, dataset, identity });
                    }
                }
                Ok(LocationType::Group) => {
                    if let Ok(below) = group.group(&name)
                        && identity(&below).is_ok_and(|identity| seen.insert(identity))
                    {
                        groups.push((path, below));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

/// The dataset of this name, if there is one.
pub(super) fn named(file: &File, name: &str) -> Option<Identity> {
    identity(&*file.dataset(name).ok()?).ok()
}

fn identity(of: &Location) -> hdf5::Result<Identity> {
    of.loc_info().map(|info| (info.fileno, format!("{:?}", info.token)))
}

/// The type of an element, in `NumPy`'s words where it has some.
pub(super) fn element(of: &Datatype) -> String {
    let bits = of.size() * 8;
    let words = match (raw::kind(of), of.to_descriptor()) {
        (_, Ok(TypeDescriptor::Compound(parts))) if raw::is_complex(&parts) => {
            return format!("complex{bits}");
        }
        (_, Ok(known)) => return known.to_string(),
        (Kind::Integer, _) => "integer",
        (Kind::Float, _) => "float",
        (Kind::Enum, _) => "enum",
        (Kind::Bitfield, _) => "bitfield",
        (Kind::Compound | Kind::Other, _) => "unknown type",
    };
    format!("{bits}-bit {words}")
}
