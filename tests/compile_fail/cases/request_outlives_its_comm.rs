fn main() {
    let _ = spmd::local(2, |world| {
        let request = {
            let twin = world.dup()?;
            twin.isend(vec![1_u8], 0)?
        };
        request.wait()?;
        Ok(())
    });
}
