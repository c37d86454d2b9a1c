"""headrace.media"""
