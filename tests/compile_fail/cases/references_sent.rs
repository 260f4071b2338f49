fn main() {
    let _ = spmd::local(2, |world| {
        world.send(&[&1], 0)?;
        Ok(())
    });
}
