//! Pictures of distributed arrays.

use std::{
    io::Write,
    panic::Location,
    path::{Path, PathBuf},
    str::FromStr,
};

use ndarray::ArrayRef2;

use super::{FileError, agree, unfinished, unfinished::Unfinished};
use crate::{
    array::Layout,
    comm::{Comm, Max, Min},
    error::Failure,
};

/// A picture has this many pixels a side at most.
const LARGEST: usize = 2000;
/// A smaller picture is enlarged to about this many pixels a side.
const SMALLEST: usize = 256;
/// The colours; one more is for cells without a number.
const COLORS: u8 = 255;
/// The colour of NaN: grey.
const NO_NUMBER: u8 = COLORS;

/// A picture file, as users name it: `FILE.png`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureFile {
    path: PathBuf,
}

impl FromStr for PictureFile {
    type Err = FileError;

    fn from_str(text: &str) -> Result<Self, FileError> {
        let path = PathBuf::from(text);
        if path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("png")) {
            Ok(Self { path })
        } else {
            Err(FileError::UnknownSuffix { path, known: "png" })
        }
    }
}

impl PictureFile {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Finds out whether the file can be written, and leaves nothing behind: before a long
    /// computation, on one rank.
    ///
    /// # Errors
    /// If the directory does not exist or cannot be written, or the name belongs to a directory or
    /// to a read-only file.
    pub fn check_writable(&self) -> Result<(), FileError> {
        unfinished::check_writable(&self.path)
    }

    /// Draws a distributed array: `block` is this rank's block of `layout`. Colours run from the
    /// smallest value (dark) to the largest (bright); NaN is grey.
    ///
    /// A pixel is a cell. Of an array larger than 2000 cells a side only every second (third, …)
    /// row and column is drawn; a cell of a small array is several pixels wide.
    ///
    /// The file is written as [`ArrayFile::write`](super::ArrayFile::write) does it.
    ///
    /// # Collective
    /// Two allreduces and a gather of a byte per pixel.
    ///
    /// # Errors
    /// What the file system or the other ranks did wrong, on all ranks.
    ///
    /// # Panics
    /// If `block` has not the shape that `layout` gives this rank.
    #[track_caller]
    pub fn write(
        &self,
        comm: &Comm,
        layout: &Layout<2>,
        block: &ArrayRef2<f64>,
    ) -> Result<(), Failure> {
        let [rows, columns] = layout.block(comm.rank()).ranges();
        assert_eq!(block.dim(), (rows.len(), columns.len()), "the block is this rank's");
        let at = Location::caller();
        self.draw(comm, layout, block, at).map_err(|failure| failure.called_at(at))
    }

    fn draw(
        &self,
        comm: &Comm,
        layout: &Layout<2>,
        block: &ArrayRef2<f64>,
        at: &'static Location<'static>,
    ) -> Result<(), Failure> {
        let [rows, columns] = layout.block(comm.rank()).ranges();
        let finite = || block.iter().copied().filter(|value| value.is_finite());
        let low = comm.allreduce(&[finite().fold(f64::INFINITY, f64::min)], Min)?[0];
        let high = comm.allreduce(&[finite().fold(f64::NEG_INFINITY, f64::max)], Max)?[0];
        let every = stride(layout.shape());
        let mut mine = Vec::new();
        for (_, row) in rows.zip(block.outer_iter()).filter(|(row, _)| row % every == 0) {
            let cells = columns.clone().zip(row).filter(|(column, _)| column % every == 0);
            mine.extend(cells.map(|(_, &value)| color(value, low, high)));
        }
        let saved = if let Some(parts) = comm.gather(0, &mine)? {
            let [height, width] = layout.shape().map(|len| len.div_ceil(every));
            let mut pixels = vec![NO_NUMBER; height * width];
            for (rank, part) in parts.iter().enumerate() {
                let [rows, columns] = layout
                    .block(rank)
                    .ranges()
                    .map(|range| range.start.div_ceil(every)..range.end.div_ceil(every));
                // A rank whose block falls between the drawn rows or columns has sent nothing.
                for (row, line) in rows.zip(part.chunks_exact(columns.len().max(1))) {
                    pixels[row * width..][columns.clone()].copy_from_slice(line);
                }
            }
            save(&self.path, &pixels, [height, width])
        } else {
            Ok(())
        };
        agree(comm, at, saved)
    }
}

/// Which rows and columns are drawn: every first, second, third, …
fn stride(shape: [usize; 2]) -> usize {
    shape[0].max(shape[1]).div_ceil(LARGEST).max(1)
}

/// The place of a value in the palette.
fn color(value: f64, low: f64, high: f64) -> u8 {
    if value.is_nan() {
        return NO_NUMBER;
    }
    // Halved, so that the range of the largest numbers does not overflow.
    let share = (value / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0);
    // One value everywhere has no range: it is drawn as the lowest. The conversion saturates.
    (share.clamp(0.0, 1.0) * f64::from(COLORS - 1)).round() as u8
}

fn save(path: &Path, pixels: &[u8], [height, width]: [usize; 2]) -> Result<(), FileError> {
    let times = (SMALLEST / height.max(width)).max(1);
    let mut enlarged = Vec::with_capacity(pixels.len() * times * times);
    for row in pixels.chunks_exact(width) {
        let row: Vec<u8> =
            row.iter().flat_map(|&pixel| std::iter::repeat_n(pixel, times)).collect();
        (0..times).for_each(|_| enlarged.extend_from_slice(&row));
    }
    let gradient = colorous::INFERNO;
    let colors = (0..usize::from(COLORS)).map(|color| {
        let colorous::Color { r, g, b } = gradient.eval_rational(color, COLORS.into());
        [r, g, b]
    });
    let palette: Vec<u8> = colors.chain([[128; 3]]).flatten().collect();
    // Neither is larger than `LARGEST`.
    let (wide, high) = ((width * times) as u32, (height * times) as u32);
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, wide, high);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(palette);
    let encode = || {
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&enlarged)?;
        writer.finish()
    };
    encode().map_err(FileError::format(path, "draw"))?;
    let unfinished = Unfinished::create(path)?;
    unfinished.reserve(bytes.len() as u64)?;
    unfinished.file().write_all(&bytes).map_err(FileError::system(path, "write"))?;
    unfinished.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(ranks: usize, shape: [usize; 2], name: &str) -> (png::OutputInfo, Vec<u8>) {
        let directory = tempfile::tempdir().unwrap();
        let file: PictureFile = directory.path().join(name).to_str().unwrap().parse().unwrap();
        crate::local(ranks, |world| {
            let grid =
                world.cart([None, None], [false, false])?.expect("all ranks are on the grid");
            let layout = Layout::on_grid(shape, grid.dims());
            let [rows, columns] = layout.block(grid.rank()).ranges();
            let block = ndarray::Array2::from_shape_fn((rows.len(), columns.len()), |(i, j)| {
                ((rows.start + i) * shape[1] + columns.start + j) as f64
            });
            file.write(&grid, &layout, &block)
        })
        .unwrap();
        let opened = std::io::BufReader::new(std::fs::File::open(file.path()).unwrap());
        let mut reader = png::Decoder::new(opened).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        (info, pixels)
    }

    #[test]
    fn a_picture_does_not_depend_on_the_ranks() {
        for shape in [[3, 3], [1, 70], [40, 30], [4300, 3]] {
            let (info, pixels) = draw(1, shape, "one.png");
            for ranks in [2, 3, 8] {
                assert_eq!(draw(ranks, shape, "many.png").1, pixels, "{shape:?} on {ranks} ranks");
            }
            let times = if shape[0].max(shape[1]) > LARGEST {
                0
            } else {
                (SMALLEST / shape[0].max(shape[1])).max(1)
            };
            if times > 0 {
                assert_eq!(
                    (info.height as usize, info.width as usize),
                    (shape[0] * times, shape[1] * times)
                );
            } else {
                assert_eq!((info.height, info.width), (1434, 1));
            }
        }
    }

    #[test]
    fn colors_run_from_the_smallest_to_the_largest_value() {
        assert_eq!((color(-1.0, -1.0, 3.0), color(3.0, -1.0, 3.0)), (0, COLORS - 1));
        assert_eq!((color(f64::NAN, 0.0, 1.0), color(5.0, 5.0, 5.0)), (NO_NUMBER, 0));
        assert_eq!(
            (color(f64::MAX, f64::MIN, f64::MAX), color(f64::INFINITY, 0.0, 1.0)),
            (COLORS - 1, COLORS - 1)
        );
    }

    #[test]
    fn only_png_is_drawn() {
        assert!("x.jpg".parse::<PictureFile>().is_err());
        assert!("x.PNG".parse::<PictureFile>().is_ok());
    }
}
