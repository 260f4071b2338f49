fn main() {
    let _ = spmd::local(1, |world| {
        let mut plan = world.plan();
        let mine = plan.send(vec![1.0_f64], None)?;
        let values: &[u64] = plan.get(mine)?;
        println!("{values:?}");
        Ok(())
    });
}
