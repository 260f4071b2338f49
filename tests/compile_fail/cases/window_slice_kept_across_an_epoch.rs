fn main() {
    spmd::local(2, |world| {
        let mut window = world.window::<u64>(4)?;
        let mine = window.local();
        window.epoch(|epoch| epoch.put(0, 0, &[1]))?;
        assert_eq!(mine, [1, 0, 0, 0]); // others may have changed it
        Ok(())
    })
    .unwrap();
}
