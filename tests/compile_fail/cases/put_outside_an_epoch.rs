fn main() {
    spmd::local(2, |world| {
        let window = world.window::<u64>(4)?;
        window.put(0, 0, &[1])?; // only epochs and locks have it
        Ok(())
    })
    .unwrap();
}
