fn main() {
    let _ = spmd::local(2, |world| {
        let mut buffer = [0; 4];
        world.scope(|s| {
            s.irecv(&mut buffer, 1)?;
            s.isend(&buffer, 1)?;
            Ok(())
        })?;
        Ok(())
    });
}
