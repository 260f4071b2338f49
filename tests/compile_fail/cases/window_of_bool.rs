fn main() {
    spmd::local(2, |world| {
        let window = world.window::<bool>(4)?; // another rank could put a 7 there
        assert_eq!(window.lens(), [4, 4]);
        Ok(())
    })
    .unwrap();
}
