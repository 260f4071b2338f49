fn main() {
    let _ = spmd::local(2, |world| {
        let mut buffer = [0; 4];
        let mut kept = None;
        world.scope(|s| {
            kept = Some(s.irecv(&mut buffer, 1)?);
            Ok(())
        })?;
        drop(kept);
        Ok(())
    });
}
