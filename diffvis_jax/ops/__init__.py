"""Operations with a lowering per platform, in one place."""
