"""A page that steps through a measured session."""

from diffvis_jax.report.html_page import write_page

__all__ = ["write_page"]
