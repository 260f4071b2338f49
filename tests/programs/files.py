"""Looks at files that `tests/files.rs` has written, as their users would."""

import sys
from pathlib import Path

import h5py
import numpy
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOHDF import vtkHDFReader

directory = Path(sys.argv[1])


def counted(shape, dtype):
    return (numpy.arange(numpy.prod(shape)) % 100).reshape(shape).astype(dtype)


def same(array, wanted):
    assert array.dtype == wanted.dtype, (array.dtype, wanted.dtype)
    assert numpy.array_equal(array, wanted), (array, wanted)


def image(name, step=None):
    reader = vtkHDFReader()
    reader.SetFileName(str(directory / name))
    reader.UpdateInformation()
    if step is not None:
        reader.SetStep(step)
    reader.Update()
    output = reader.GetOutputDataObject(0)
    values = output.GetCellData().GetArray("field")
    assert values is not None, f"{name} has no field"
    return reader, output.GetDimensions(), vtk_to_numpy(values)


# Every type, by both formats.
for dtype in "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64".split():
    wanted = counted((3, 4, 5), dtype)
    same(numpy.load(directory / f"{dtype}.npy"), wanted)
    for name in [f"{dtype}.h5", f"{dtype}-packed.h5"]:
        with h5py.File(directory / name) as file:
            same(file["field"][...], wanted)
            assert file["field"].attrs["units"] == "m", "units"
            assert (file["field"].compression == "gzip") == ("packed" in name), name

# Images, as VTK sees them: x is the last axis of the array.
_, size, values = image("two.vtkhdf")
assert size == (5, 4, 1), size
same(values, counted((3, 4), "float64").ravel())
_, size, values = image("three.vtkhdf")
assert size == (6, 5, 4), size
same(values, counted((3, 4, 5), "int32").ravel())

# A series, as h5py and as VTK see it.
with h5py.File(directory / "series.h5") as file:
    same(file["run/time"][...], numpy.array([0.5, 1.5, 2.5]))
    for step in range(3):
        same(file["run/heat"][step], counted((3, 4), "float32") + numpy.float32(step))
for step in range(3):
    reader, size, values = image("series.vtkhdf", step)
    assert (reader.GetNumberOfSteps(), size) == (3, (5, 4, 1)), (reader.GetNumberOfSteps(), size)
    assert reader.GetTimeValue() == step + 0.5, reader.GetTimeValue()
    same(values, (counted((3, 4), "float32") + numpy.float32(step)).ravel())

print("ok")
