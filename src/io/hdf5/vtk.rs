//! HDF5 files in the form that VTK and `ParaView` open (VTKHDF): an image, and a field on its cells.

use hdf5::types::FixedAscii;

use super::super::{FileError, New};
use crate::scalar::Element;

/// Where the fields on cells are.
pub(in crate::io) const FIELDS: &str = "/VTKHDF/CellData/";
/// Where the steps of a series are described.
pub(super) const STEPS: &str = "/VTKHDF/Steps";

/// Whether VTK could read such an array; a series is checked without its axis of time.
pub(in crate::io) fn check(new: &New) -> Result<(), FileError> {
    let reason = if !matches!(new.shape.len(), 2 | 3) {
        let shape = &new.shape;
        format!(
            "an image has two or three axes, this array has shape {shape:?}; a name that ends in .h5 takes all"
        )
    } else if new.element == Element::Bool || new.element.is_complex() {
        let element = new.element;
        format!(
            "VTK reads integers and floats, not {element}; convert it first, or choose a name that ends in .h5"
        )
    } else if new
        .dataset
        .strip_prefix(FIELDS)
        .is_none_or(|name| name.is_empty() || name.contains('/'))
    {
        format!(
            "VTK does not look for a field in {}; name it without a slash, as in FILE.vtkhdf:field",
            new.dataset
        )
    } else {
        return Ok(());
    };
    Err(FileError::Storage { path: new.path.clone(), reason })
}

/// Describes the image, whose field has been created.
pub(super) fn furnish(file: &hdf5::File, new: &New) -> hdf5::Result<()> {
    let root = file.group("/VTKHDF")?;
    let numbers = |name: &str, values: &[i64]| {
        root.new_attr_builder().with_data(values).create(name).map(drop)
    };
    let floats = |name: &str, values: &[f64]| {
        root.new_attr_builder().with_data(values).create(name).map(drop)
    };
    numbers("Version", &[2, 1])?;
    let kind = FixedAscii::<9>::from_ascii("ImageData")
        .map_err(|error| hdf5::Error::from(error.to_string()))?;
    root.new_attr::<FixedAscii<9>>().create("Type")?.write_scalar(&kind)?;
    // VTK counts axes from the last one, x; an image of two has no cells along z.
    let lens = new.shape[usize::from(new.step.is_some())..].iter().rev();
    let mut extent = [0; 6];
    for (axis, &len) in lens.enumerate() {
        extent[2 * axis + 1] = len as i64;
    }
    numbers("WholeExtent", &extent)?;
    floats("Origin", &[0.0; 3])?;
    floats("Spacing", &[1.0; 3])?;
    floats("Direction", &[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])
}
