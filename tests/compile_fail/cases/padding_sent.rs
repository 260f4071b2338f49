#[derive(Clone, Copy, spmd::bytemuck::NoUninit, spmd::bytemuck::CheckedBitPattern)]
#[bytemuck(crate = "spmd::bytemuck")]
#[repr(C)]
struct Padded {
    small: u8,
    large: u64,
}

fn main() {
    let _ = spmd::local(2, |world| {
        world.send(&[Padded { small: 1, large: 2 }], 0)?;
        world.send(&[(1_u8, 2_u64)], 0)?;
        Ok(())
    });
}
