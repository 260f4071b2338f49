fn main() {
    let _ = spmd::local(2, |world| {
        world.scope(|s| {
            let mut buffer = [0; 4];
            s.irecv(&mut buffer, 1)?;
            Ok(())
        })?;
        Ok(())
    });
}
