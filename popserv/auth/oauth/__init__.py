"""OAuth."""
