"""Which augmentation to distil with, asked of the teacher before any student is trained."""
