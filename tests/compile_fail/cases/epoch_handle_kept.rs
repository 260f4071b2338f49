fn main() {
    spmd::local(2, |world| {
        let mut window = world.window::<u64>(4)?;
        let mut kept = None;
        window.epoch(|epoch| {
            kept = Some(epoch); // accesses belong inside the epoch
            Ok(())
        })?;
        Ok(())
    })
    .unwrap();
}
