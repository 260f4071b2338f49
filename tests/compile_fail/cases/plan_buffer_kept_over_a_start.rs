fn main() {
    let _ = spmd::local(1, |world| {
        let mut plan = world.plan();
        let theirs = plan.recv(vec![0.0], None)?;
        let values = plan.get(theirs)?;
        plan.start()?;
        println!("{values:?}");
        Ok(())
    });
}
