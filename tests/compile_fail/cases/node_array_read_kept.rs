fn main() {
    spmd::local(2, |world| {
        let mut array = world.node_array::<u64>(4)?;
        let mut kept: &[u64] = &[];
        array.read(|all, _starts| kept = all)?; // others may write next
        assert_eq!(kept.len(), 8);
        Ok(())
    })
    .unwrap();
}
